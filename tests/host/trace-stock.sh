#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The tracers need no patch: trace_test passes on the distribution's own KVM modules.
cd "$(dirname "$0")/../.." || exit 1
exec tests/machine/run --modules stock --timeout 400 -- tests/tool/trace_test.sh
