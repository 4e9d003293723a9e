#!/usr/bin/env bash
# The whole way: recordings of an event camera, frames, training, a net of integers, C, this machine, and a Cortex-M3 in QEMU.
# Needs cc; the last part arm-none-eabi-gcc with newlib and qemu-system-arm, and is skipped without them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
snnc=${SNNC:-snnc}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# A dot that crosses 8 columns in 40 ms, in any row, with jitter and noise: 100 recordings of each class, t in microseconds.
mkdir -p train/0_left train/1_right test/0_left test/1_right
for set in train test; do
    for class in 0_left 1_right; do
        awk -v folder="$set/$class" -v count="$([ $set = train ] && echo 80 || echo 20)" -v seed="$set$class" 'BEGIN {
            for (i = 1; i <= length(seed); ++i) s = s * 7 + index("abcdefghijklmnopqrstuvwxyz01_", substr(seed, i, 1)); srand(s)
            for (n = 0; n < count; ++n) {
                file = sprintf("%s/%03d.csv", folder, n); print "t,x,y,p" > file
                row = int(rand() * 8); print 0 "," int(rand() * 8) "," int(rand() * 8) ",1" > file
                for (t = 100; t < 40000; t += 200 + int(rand() * 600)) {
                    x = int(t / 5000); if (folder ~ /left/) x = 7 - x
                    if (rand() < 0.15) print t "," int(rand() * 8) "," int(rand() * 8) "," (rand() < 0.5) > file
                    else print t "," x "," row "," (rand() < 0.5) > file
                }
                close(file)
            }
        }'
    done
    "$snnc" events $set --bin 5ms --size 8x8 --steps 8 --polarity sum -o $set.npz
done
"$snnc" train "$here/sensor.snn" --data train.npz --validate test.npz --time-major --epochs 30 --batch 16 --lr 1e-2 --seed 1 --weights-out sensor.safetensors
"$snnc" quantise "$here/sensor.snn" --net main --weights sensor.safetensors --data test.npz --states Q7.8 -o q.safetensors
"$snnc" build "$here/sensor.snn" --net main --weights q.safetensors --weights-dtype i8 --states Q7.8 --dims B=1 --flash 8K --ram 1K -o .
# Frames sample by sample, as the program reads them.
printf ':load test.npz\nlet frames = permute(x, [1, 0, 2, 3, 4])\nlet labels = label\n:save frames frames.safetensors\n:save labels labels.safetensors\n' | "$snnc" repl > repl.txt
cc -std=c99 -O2 -Wall -Wextra -Werror -pedantic -I. -I"$here/../cortex_m" sensor.c "$here/main.c" -lm -o host
./host | tee host.txt
for tool in arm-none-eabi-gcc qemu-system-arm; do
    command -v $tool > /dev/null || { echo "SKIPPED the Cortex-M: there is no $tool"; exit 0; }
done
arm-none-eabi-gcc -mcpu=cortex-m3 -mthumb -std=c99 -O2 -Wall -Wextra --specs=rdimon.specs -T "$here/../cortex_m/mps2.ld" -I. -I"$here/../cortex_m" \
    "$here/../cortex_m/startup.c" sensor.c "$here/main.c" -lm -o firmware.elf
timeout 300 qemu-system-arm -M mps2-an385 -nographic -semihosting-config enable=on,target=native -kernel firmware.elf | tee arm.txt
cmp arm.txt host.txt && echo "both are equal"
