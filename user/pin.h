/* SPDX-License-Identifier: GPL-2.0 */
/* What outlives the tool: pins in bpffs. */
#ifndef __KVMEXT_PIN_H
#define __KVMEXT_PIN_H

#include <bpf/bpf.h>

#include "object.h"

/*
 * A policy is DIR/kvmext/INSTANCE/{link,ops,data,rodata,bss}.  While it is put
 * together it is DIR/kvmext/~INSTANCE; the rename makes it whole at once.
 * Everyone who changes anything holds a lock on DIR/kvmext, so a "~" folder
 * seen under the lock was left by a tool that was killed.
 */

/* pins_lock - lock the folder until we exit, and finish what killed tools left */
int pins_lock(void);
/* pins_check - for who only reads: the folder is there and can be trusted, or is not there */
int pins_check(void);
/* pins_wrong - why the folder must not be used, or NULL */
char *pins_wrong(void);
#define PINS_MEND "remove it, and mount bpffs with mode=0700"
char *pins_dir(const char *instance);
char *pins_new_dir(const char *instance);
bool pins_exists(const char *instance);
/* pins_new - make the "~" folder with everything but the link in it */
int pins_new(const struct object *o, const char *instance);
int pins_new_link(const char *instance, int link_fd);
void pins_drop_new(const char *instance);
/* pins_commit - the "~" folder becomes the instance; an old one of that name goes */
int pins_commit(const char *instance);
int pins_remove(const char *dir);
/*
 * pins_each - call @fn for each folder until it returns non-zero, which is the result;
 * -errno if they cannot be listed
 */
int pins_each(int (*fn)(const char *dir, const char *instance, void *arg), void *arg);
/* pins_get_link - a descriptor of the pinned link, or -errno: -ENOENT only if there is none */
int pins_get_link(const char *dir, struct bpf_link_info *info);

/**
 * struct pinned - what a folder of pins says
 * @link_id: of its link
 * @attached: the link has a table, whichever
 * @in_charge: it has the one that is pinned beside it
 */
struct pinned {
	uint32_t link_id;
	bool attached;
	bool in_charge;
};

/*
 * pins_look - 0, or -errno: -ENOENT if there is no link; with any other nothing is
 * known, and it is not to be taken for gone
 */
int pins_look(const char *dir, struct pinned *p);

#endif /* __KVMEXT_PIN_H */
