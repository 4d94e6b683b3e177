#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Every example of the manual pages with commands for a guest runs as it stands there, with a
# Linux guest.
exec "$(dirname "$0")/../tool/man_run.py" guest
