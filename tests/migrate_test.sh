#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A real QEMU guest under `converge`: a migration that is cancelled, then one that arrives.
exec "$(dirname "$0")/migrate/tap.py"
