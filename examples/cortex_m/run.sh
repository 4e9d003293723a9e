#!/usr/bin/env bash
# Builds the net of examples/nir for this machine and for a Cortex-M3, runs both (the second in QEMU), and compares.
# Needs cc, arm-none-eabi-gcc with newlib, and qemu-system-arm: in Debian gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
snnc=${SNNC:-snnc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
printf ':load examples/digits/test.npz\nlet images = flatten(avg_pool2d(f32(x[:100]) / 255, 2), start = 1)\nlet labels = i64(label[:100])\n:save images %s/images.safetensors\n:save labels %s/labels.safetensors\n' "$work" "$work" | "$snnc" repl > "$work/repl.txt"
"$snnc" build examples/nir/digits.nir --preset snntorch --dims B=1 --flash 256K --ram 8K -o "$work"
cd "$work"
cc -std=c99 -O2 -Wall -Wextra -Werror -pedantic -I. digits.c "$here/main.c" -lm -o host
./host | tee host.txt
for tool in arm-none-eabi-gcc qemu-system-arm; do
    command -v $tool > /dev/null || { echo "SKIPPED the Cortex-M: there is no $tool"; exit 0; }
done
flags="-mcpu=cortex-m3 -mthumb -std=c99 -O2 -ffunction-sections -Wall -Wextra"
arm-none-eabi-gcc $flags -c digits.c -o digits.o
echo "digits.o, without main and the C library:"
arm-none-eabi-size digits.o
arm-none-eabi-gcc $flags --specs=rdimon.specs -Wl,--gc-sections -T "$here/mps2.ld" "$here/startup.c" digits.o "$here/main.c" -I. -lm -o firmware.elf
timeout 300 qemu-system-arm -M mps2-an385 -nographic -semihosting-config enable=on,target=native -icount shift=0 -kernel firmware.elf | tee arm.txt
head -1 arm.txt | cmp - host.txt && echo "both are equal"
