#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Every example of the manual pages of what watches and steers runs as it stands there, beside
# a VM.
exec "$(dirname "$0")/man_run.py" watch
