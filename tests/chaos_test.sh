#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A minute of random actions on running guests, of one seed: `make test-chaos` takes others.
exec "$(dirname "$0")/chaos/chaos.py" --seconds 60 --seed 1
