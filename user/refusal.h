/* SPDX-License-Identifier: GPL-2.0 */
/* Why the kernel refused a policy. */
#ifndef __KVMEXT_REFUSAL_H
#define __KVMEXT_REFUSAL_H

#include "object.h"

/* load_refused - report why object_load() failed with @err */
int load_refused(const struct object *o, uint32_t vm, int err);
/* link_refused - report why the table was not filled, or a link was not made or not updated */
int link_refused(const struct object *o, const char *doing, uint32_t vm, int err);

#endif /* __KVMEXT_REFUSAL_H */
