#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The manual pages are well-formed. What they say of commands, options, exit codes and
# environment variables is what the tool and its source say, no less and no more.
exec "$(dirname "$0")/man_check.py"
