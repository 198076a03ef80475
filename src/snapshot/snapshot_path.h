/* SPDX-License-Identifier: BSD-2-Clause */
/* Paths of snapshot files, and how one of a chain names the next. */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_PATH_H
#define GODWIT_SNAPSHOT_SNAPSHOT_PATH_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/*
 * The absolute path of @path without symbolic links, in *@resolved (freed with free()). The file
 * itself need not exist; the folder must.
 */
struct error *snapshot_path_resolve(const char *path, char **resolved) MUST_CHECK;
/* The folder of @path, "." when there is no '/' in it; freed with free(); NULL: no memory. */
char *snapshot_path_folder(const char *path);
/*
 * @target as seen from the folder of @from, both absolute and resolved: "base.snap",
 * "../old/base.snap". Freed with free(); NULL: no memory.
 */
char *snapshot_path_relative(const char *from, const char *target);
/* @path, if it is relative as seen from the folder of @from. Freed with free(); NULL: no memory. */
char *snapshot_path_join(const char *from, const char *path);

/* Whether none of the @length bytes is a control character: such a path is neither written nor read. */
bool snapshot_path_is_printable(const char *path, size_t length);

#endif
