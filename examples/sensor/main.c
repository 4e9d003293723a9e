/* The net of sensor.snn on the frames of all test recordings, step by step: the same file for this machine and for a Cortex-M. */
#include <stdint.h>
#include <stdio.h>
#include "sensor.h"
#include "tensor.h"

enum { STEPS = 8, SIDE = 8, RECORDINGS = 40 };

static sensor_state state;
static uint8_t frames[RECORDINGS][STEPS][SIDE * SIDE];

int main(void) {
  FILE *x = tensor("frames.safetensors"), *labels = tensor("labels.safetensors");
  int hits = 0;
  if (!x || !labels || fread(frames, sizeof frames, 1, x) != 1) return puts("no data"), 1;
  for (int i = 0; i < RECORDINGS; ++i) {
    int64_t label;
    int left = 0, right = 0;
    if (fread(&label, sizeof label, 1, labels) != 1) return puts("short data"), 1;
    sensor_init(&state);
    for (int t = 0; t < STEPS; ++t) {
      float spikes[2];
      sensor_step(&state, frames[i][t], spikes);
      left += spikes[0] > 0;
      right += spikes[1] > 0;
    }
    hits += (right > left) == (int)label;
  }
  printf("%d of %d recordings\n", hits, RECORDINGS);
  return 0;
}
