#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A Linux guest with virtio and a tap of several queues, steered by kvmext.
exec "$(dirname "$0")/steer/tap.py"
