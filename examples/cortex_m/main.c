/* The net of ../nir on 100 digits, step by step: the same file for this machine and for a Cortex-M. */
#include <stdint.h>
#include <stdio.h>
#include "digits.h"
#include "tensor.h"

#ifdef __arm__
/* SysTick counts down from 2^24 - 1, at 25 MHz; under QEMU's `-icount shift=0` an instruction takes a nanosecond, and so a tick 40 of them. */
static volatile uint32_t *const systick = (uint32_t *)0xE000E010;
static void start_clock(void) { systick[1] = 0xFFFFFF; systick[2] = 0; systick[0] = 5; }
static uint32_t ticks(void) { return (0xFFFFFF - systick[2]) * 40; }
#else
static void start_clock(void) {}
static uint32_t ticks(void) { return 0; }
#endif

static digits_state state;

int main(void) {
  FILE *images = tensor("images.safetensors"), *labels = tensor("labels.safetensors");
  static float image[196];
  float spikes[10];
  int hits = 0, total = 0;
  uint32_t most = 0;
  if (!images || !labels) return puts("no data"), 1;
  for (int i = 0; i < 100; ++i) {
    int64_t label;
    int count[10] = {0}, best = 0;
    if (fread(image, sizeof image, 1, images) != 1 || fread(&label, sizeof label, 1, labels) != 1) return puts("short data"), 1;
    digits_init(&state);
    for (int t = 0; t < 20; ++t) {
      start_clock();
      digits_step(&state, image, spikes);
      const uint32_t own = ticks();
      most = own > most ? own : most;
      for (int k = 0; k < 10; ++k) count[k] += spikes[k] > 0;
    }
    for (int k = 0; k < 10; ++k) {
      best = count[k] > count[best] ? k : best;
      total += count[k];
    }
    hits += best == (int)label;
  }
  printf("%d of 100 digits, %d spikes\n", hits, total);
  if (most) printf("at most %lu instructions a step\n", (unsigned long)most);
  return 0;
}
