#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The emulator runs kernel text as it is when it was patched, and loading FPU state on one
# CPU does not touch a guest on another (tests/machine/qemu.patch).  Stock modules, so that
# nothing of ours is in it; with --emulator packaged both fail.
cd "$(dirname "$0")/../.." || exit 1
exec tests/machine/run --cpus 3 --modules stock --timeout 400 -- tests/machine/patched_text.py "$@"
