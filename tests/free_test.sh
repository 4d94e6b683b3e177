#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Two migrations of a guest that takes, frees and writes memory meanwhile, under skip_free.
exec "$(dirname "$0")/free/move.py" --runs 2
