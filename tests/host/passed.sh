# SPDX-License-Identifier: GPL-2.0
# For host tests whose outcome depends on files, kernel and compiler alone, and not on the
# machine: after `. tests/host/passed.sh`,
#
#	passed=$(passed_file FILE...)
#	[ -e "$passed" ]	# it passed with all of these as they are
#	: >"$passed"		# it has passed now
#
# In the cache, so that a clean clone knows it too; build/config.mk has been read.

passed_file()
{
	local dir="${XDG_CACHE_HOME:-$HOME/.cache}/kvm_ext/passed" key
	key=$(. build/machine.mk; { cat "$0" "$@" || echo $$; echo "$KVER $EMULATOR"; "${CC:-cc}" --version; } | sha256sum)
	mkdir -p "$dir"
	echo "$dir/$(basename "$0" .sh)-${key:0:16}"
}
