#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# A harvest in which nothing was written costs what stock's does, however much was left out.
exec "$(dirname "$0")/../bench/free_cost.py" --harvest --tap
