// SPDX-License-Identifier: GPL-2.0
/* Whether all of a policy file is there: ELF and BTF, before libbpf trusts them. */
#include "vet.h"

#include <bpf/btf.h>
#include <elf.h>

#include "base.h"
#include "out.h"

int vet_bad(const char *path, const char *what)
{
	return fail(E_OBJECT, "give a policy built by clang -target bpf -g", "%s %s", path, what);
}

/*
 * libbpf trusts an ELF file's headers more than a file that was cut short or
 * damaged deserves: see first that all of it is there.
 */
static int check_elf(const char *path, const char *data, size_t size)
{
	Elf64_Ehdr eh;
	Elf64_Shdr sh;

	if (size < sizeof(eh) || memcmp(data, ELFMAG, SELFMAG))
		return vet_bad(path, "is no ELF object");
	memcpy(&eh, data, sizeof(eh));
	if (eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_BPF || eh.e_type != ET_REL)
		return vet_bad(path, "is an ELF file, but no BPF object");
	if (eh.e_ident[EI_DATA] != ELFDATA2LSB)
		return vet_bad(path, "is a BPF object for the other byte order");
	if (eh.e_shentsize != sizeof(sh) || eh.e_shoff > size ||
	    eh.e_shnum > (size - eh.e_shoff) / sizeof(sh))
		return vet_bad(path, "is truncated or corrupt: its section table is not all there");
	for (int i = 0; i < eh.e_shnum; i++) {
		memcpy(&sh, data + eh.e_shoff + i * sizeof(sh), sizeof(sh));
		if (sh.sh_type == SHT_NOBITS ?
			    sh.sh_size > POLICY_FILE_MAX :
			    sh.sh_type != SHT_NULL &&
				    (sh.sh_offset > size || sh.sh_size > size - sh.sh_offset))
			return vet_bad(path, "is truncated or corrupt: a section is not all there");
	}
	return OK;
}

/* Whether all members of a struct or union lie within it. */
static bool members_good(const struct btf *btf, const struct btf_type *t)
{
	for (int i = 0; btf_is_composite(t) && i < btf_vlen(t); i++) {
		uint32_t bits = btf_member_bitfield_size(t, i);
		int64_t size = btf__resolve_size(btf, btf_members(t)[i].type);

		if (!bits && size > 0)
			bits = size > POLICY_FILE_MAX ? UINT32_MAX : size * 8;
		if ((uint64_t)btf_member_bit_offset(t, i) + bits > (uint64_t)t->size * 8)
			return false;
	}
	return true;
}

/*
 * libbpf checks that BTF's types and names are there, but adds up places and sizes
 * of variables as they come, and writes to where a table's type says its members are.
 */
static int check_btf(const char *path, const void *data, size_t size)
{
	struct btf *btf = btf__new(data, size);
	int n = btf ? (int)btf__type_cnt(btf) : 0,
	    ret = btf ? OK : vet_bad(path, "has corrupt BTF");

	for (int i = 1; i < n && ret == OK; i++) {
		const struct btf_type *t = btf__type_by_id(btf, i);
		const struct btf_var_secinfo *vsi = btf_var_secinfos(t);

		if (!members_good(btf, t))
			ret = vet_bad(path, "has corrupt BTF: a member is nowhere");
		for (int j = 0; ret == OK && btf_is_datasec(t) && j < btf_vlen(t); j++, vsi++) {
			const struct btf_type *v = btf__type_by_id(btf, vsi->type);
			int64_t len = btf_is_var(v) ? btf__resolve_size(btf, vsi->type) : 0;

			if ((!btf_is_var(v) && !btf_is_func(v)) || vsi->offset > POLICY_FILE_MAX ||
			    vsi->size > POLICY_FILE_MAX || len > POLICY_FILE_MAX) {
				ret = vet_bad(path, "has corrupt BTF: a variable is nowhere");
				break;
			}
		}
	}
	btf__free(btf);
	return ret;
}

/* It believes symbols, too, when they say where in a section a variable is. */
static bool symbols_good(const char *data, const Elf64_Ehdr *eh, const Elf64_Shdr *tab)
{
	Elf64_Shdr sh;
	Elf64_Sym sym;

	for (size_t i = 0; i < tab->sh_size / sizeof(sym); i++) {
		memcpy(&sym, data + tab->sh_offset + i * sizeof(sym), sizeof(sym));
		if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= SHN_LORESERVE)
			continue;
		if (sym.st_shndx >= eh->e_shnum)
			return false;
		memcpy(&sh, data + eh->e_shoff + sym.st_shndx * sizeof(sh), sizeof(sh));
		if (sym.st_value > sh.sh_size || sym.st_size > sh.sh_size - sym.st_value)
			return false;
	}
	return true;
}

static int check_sections(const char *path, const char *data)
{
	static const char btf[] = ".BTF";
	Elf64_Shdr sh, names = {};
	Elf64_Ehdr eh;

	memcpy(&eh, data, sizeof(eh));
	if (eh.e_shstrndx < eh.e_shnum)
		memcpy(&names, data + eh.e_shoff + eh.e_shstrndx * sizeof(sh), sizeof(names));
	for (int i = 0; i < eh.e_shnum; i++) {
		memcpy(&sh, data + eh.e_shoff + i * sizeof(sh), sizeof(sh));
		if (sh.sh_type == SHT_SYMTAB && !symbols_good(data, &eh, &sh))
			return vet_bad(path, "is corrupt: a symbol is nowhere");
		if (sh.sh_type != SHT_PROGBITS || names.sh_type != SHT_STRTAB ||
		    names.sh_size < sizeof(btf) || sh.sh_name > names.sh_size - sizeof(btf) ||
		    memcmp(data + names.sh_offset + sh.sh_name, btf, sizeof(btf)))
			continue;
		if (check_btf(path, data + sh.sh_offset, sh.sh_size) != OK)
			return E_OBJECT;
	}
	return OK;
}

int vet_member(const struct btf *btf, const struct btf_type *t, const char *name, uint32_t *off,
	       uint32_t *size)
{
	for (int i = 0; i < btf_vlen(t); i++) {
		const struct btf_member *m = btf_members(t) + i;
		int64_t sz;

		if (strcmp(btf__str_by_offset(btf, m->name_off), name))
			continue;
		sz = btf__resolve_size(btf, m->type);
		*off = btf_member_bit_offset(t, i) / 8;
		*size = sz;
		return sz > 0 && (uint64_t)*off + sz <= t->size ? 0 : -1;
	}
	return -1;
}

int vet_file(const char *path, const char *data, size_t size)
{
	int ret = check_elf(path, data, size);

	return ret == OK ? check_sections(path, data) : ret;
}
