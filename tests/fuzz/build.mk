# SPDX-License-Identifier: GPL-2.0
#
# The tool and its libbpf with sanitizers, to be fuzzed: by clang with libFuzzer for
# `make fuzz`, and by gcc, which every build has, for tests/host/fuzz.sh.

fuzz_targets := args load object state value
fuzz_user := $(filter-out kvmext-guest,$(user_src:user/%.c=%))
fuzz_libbpf := $(notdir $(basename $(wildcard $(KSRC)/tools/lib/bpf/*.c)))
# What the targets put in the place of the tool's own, and what they reset.
fuzz_wrap := bpf_object__open_mem btf__load_vmlinux_btf cmd_doctor drop_rights feat_supported \
	kill_switch_on kvm_btf nanosleep need_bpffs need_kernel need_privilege object_file object_open pins_check \
	pins_commit pins_drop_new pins_exists pins_lock pins_new pins_new_link scols_line_refer_data syscall
fuzz_state := bad_arg failures j_comma j_depth log_buf log_len

fuzz_cc_libfuzzer := clang
fuzz_cc_replay := gcc
fuzz_san_libfuzzer := -fsanitize=address,undefined,fuzzer-no-link
fuzz_san_replay := -fsanitize=address,undefined
fuzz_link_libfuzzer := -fsanitize=address,undefined,fuzzer
fuzz_link_replay := -fsanitize=address,undefined
FUZZ_CFLAGS := -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=undefined

define fuzz_rules
build/fuzz/$(1)/user/%.o: user/%.c tests/fuzz/arena.h $(skels)
	$$(say) CC $$@
	@mkdir -p $$(@D)
	$$(Q)$$(fuzz_cc_$(1)) $$(fuzz_san_$(1)) $$(FUZZ_CFLAGS) $$(USER_CFLAGS) -O1 -include tests/fuzz/arena.h \
		-MMD -MP -c $$< -o $$@
	$$(Q)objcopy $$(fuzz_state:%=--globalize-symbol=%) $$@

# libbpf reads what lies unaligned in a file as it lies; that is its authors' business.
build/fuzz/$(1)/libbpf/%.o: $$(KSRC)/tools/lib/bpf/%.c
	$$(say) CC $$@
	@mkdir -p $$(@D)
	$$(Q)$$(fuzz_cc_$(1)) $$(fuzz_san_$(1)) -fno-sanitize=undefined $$(FUZZ_CFLAGS) -w \
		-D_LARGEFILE64_SOURCE -D_FILE_OFFSET_BITS=64 \
		-I$$(KSRC)/tools/include -I$$(KSRC)/tools/include/uapi -c $$< -o $$@

build/fuzz/$(1)/tests/%.o: tests/fuzz/%.c $$(CONFIG)
	$$(say) CC $$@
	@mkdir -p $$(@D)
	$$(Q)$$(fuzz_cc_$(1)) $$(fuzz_san_$(1)) $$(FUZZ_CFLAGS) $$(USER_CFLAGS) -O1 $$(if $$(filter libfuzzer,$(1)),-DFUZZ) \
		-MMD -MP -c $$< -o $$@

build/fuzz/$(1)/%: build/fuzz/$(1)/tests/%.o build/fuzz/$(1)/tests/fuzz.o $(if $(filter replay,$(1)),build/fuzz/replay/tests/replay.o) \
		$$(fuzz_user:%=build/fuzz/$(1)/user/%.o) $$(fuzz_libbpf:%=build/fuzz/$(1)/libbpf/%.o)
	$$(say) LD $$@
	$$(Q)$$(fuzz_cc_$(1)) $$(fuzz_link_$(1)) $$(fuzz_wrap:%=-Wl,--wrap=%) -o $$@ $$^ $$(USER_LIBS)

-include $$(wildcard build/fuzz/$(1)/*/*.d)
endef
$(foreach how,libfuzzer replay,$(eval $(call fuzz_rules,$(how))))

build/fuzz/%.bpf.o: tests/fuzz/%.bpf.c $(CONFIG)
	$(say) CLANG $@
	@mkdir -p $(@D)
	$(Q)clang -O2 -g -target bpf -mcpu=v3 -Wall -Wextra -Werror -isystem $(LIBBPF_INC) \
		-I/usr/include/$(shell gcc -dumpmachine) -c $< -o $@

fuzz_objects := $(patsubst tests/%.c,build/%.o,$(wildcard tests/fuzz/*.bpf.c))
fuzz-replay: $(fuzz_objects) $(fuzz_targets:%=build/fuzz/replay/%)
fuzz-build: $(fuzz_objects) $(fuzz_targets:%=build/fuzz/libfuzzer/%)

# Seconds for each target.
fuzz:
	+$(Q)tests/fuzz/fuzz.sh $(or $(SECONDS),600)

.PHONY: fuzz fuzz-build fuzz-replay
