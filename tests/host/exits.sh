#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# With nothing attached an exit costs the instructions that it costs on stock.
exec "$(dirname "$0")/../bench/exits.py" --tap
