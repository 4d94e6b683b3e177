#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A Linux guest whose agent, kvmext guest, knows its free pages whatever it does with its memory.
exec "$(dirname "$0")/free/tap.py"
