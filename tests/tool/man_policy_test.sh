#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Every example of the manual pages of policies runs as it stands there, and leaves no policy
# behind.
exec "$(dirname "$0")/man_run.py" policy
