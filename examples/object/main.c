/* Five steps of the net in coincidence.snn, linked with its object file. */
#include <stdio.h>
#include "coincidence.h"

int main(void) {
  static const float x[5][4] = {{1, 0, 0, 0}, {0, 1, 0, 1}, {0, 0, 0, 0}, {0, 0, 1, 0}, {1, 1, 0, 1}};
  static coincidence_state state;
  float spikes[2];
  coincidence_init(&state);
  for (int t = 0; t < 5; ++t) {
    coincidence_step(&state, x[t], spikes);
    printf("step %d: %g %g\n", t, spikes[0], spikes[1]);
  }
  return 0;
}
