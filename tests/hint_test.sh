#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The host's side of free pages, with agents that answer, or not, or nonsense.
exec "$(dirname "$0")/free/hint.py"
