/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a process hands to another one of this host with the descriptors that it inherits: for each
 * device an object of JSON in which {"fd": N} stands for descriptor N.
 *
 * The other process is one that this user has started, or was started by; numbers that are no open
 * descriptors are refused all the same. One thread.
 */
#ifndef GODWIT_VIRTIO_HANDED_H
#define GODWIT_VIRTIO_HANDED_H

#include <jansson.h>
#include <stdint.h>

#include "base/chardev.h"
#include "base/error.h"

/* Puts @fd, which stays the caller's, in @object as @name; nothing for -1. */
void handed_put(json_t *object, const char *name, int fd);
/* Takes @name out: a descriptor that is the caller's from now on, and of this process alone; -1. */
int handed_take(json_t *object, const char *name);
/* Several, in their order. take: how many there were, at most @maximum, in @fds. */
void handed_put_list(json_t *object, const char *name, const int *fds, uint32_t count);
uint32_t handed_take_list(json_t *object, const char *name, int *fds, uint32_t maximum);
/* chardev_share, chardev_adopt. On the thread of the device's loop. */
struct error *handed_put_chardev(json_t *object, struct chardev *chardev) MUST_CHECK;
struct error *handed_take_chardev(json_t *object, const char *text,
				  struct chardev **chardev) MUST_CHECK;

/* Calls @each for every descriptor in @value, whatever it is in; a false one ends it. */
bool handed_each(const json_t *value, bool (*each)(void *context, int fd), void *context);

#endif
