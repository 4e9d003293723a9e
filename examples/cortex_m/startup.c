/* Vectors of a Cortex-M, and the way to newlib's start. */
#include <stdint.h>

extern uint32_t stack_top;
extern void _start(void);
void reset(void);
static void fault(void) { for (;;) {} }

void reset(void) { _start(); }

__attribute__((section(".vectors"), used)) static void *const vectors[] = {
  &stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};
