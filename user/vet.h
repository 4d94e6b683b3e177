/* SPDX-License-Identifier: GPL-2.0 */
/* Whether all of a policy file is there: ELF and BTF, before libbpf trusts them. */
#ifndef __KVMEXT_VET_H
#define __KVMEXT_VET_H

#include <bpf/btf.h>
#include <stddef.h>
#include <stdint.h>

/* A policy that reads as fine gets no further than this many bytes. */
#define POLICY_FILE_MAX (64 << 20)

/* vet_file - OK, or what was reported: E_OBJECT if it is no policy's, or is damaged */
int vet_file(const char *path, const char *data, size_t size);
/* vet_bad - report that the file is no policy; E_OBJECT */
int vet_bad(const char *path, const char *what);
/* vet_member - where in a struct a member is; 0, or -1 if it has none or not all of it */
int vet_member(const struct btf *btf, const struct btf_type *t, const char *name, uint32_t *off,
	       uint32_t *size);

#endif /* __KVMEXT_VET_H */
