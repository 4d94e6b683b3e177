#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The tracers add less to an exit than perf kvm stat does, and top is quick with 1,000 vCPUs.
exec "$(dirname "$0")/../bench/trace.py" --tap
