/* SPDX-License-Identifier: BSD-2-Clause */
/* Paths of snapshot files, snapshot_path.h. */
#include "snapshot/snapshot_path.h"

#include <limits.h>
#include <string.h>

char *snapshot_path_folder(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return strdup(".");
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

struct error *snapshot_path_resolve(const char *path, char **resolved)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char *folder = NULL;
	AUTO_FREE char *real_folder = NULL;

	*resolved = realpath(path, NULL);
	if (*resolved)
		return NULL;
	if (errno != ENOENT)
		return error_system(errno, "cannot use %s", path);
	folder = snapshot_path_folder(path);
	if (!folder)
		return error_new(ENOMEM, "no memory for the path %s", path);
	real_folder = realpath(folder, NULL);
	if (!real_folder)
		return error_system(errno, "cannot use the folder %s", folder);
	if (asprintf(resolved, "%s/%s", strcmp(real_folder, "/") == 0 ? "" : real_folder,
		     slash ? slash + 1 : path) < 0) {
		*resolved = NULL;
		return error_new(ENOMEM, "no memory for the path %s", path);
	}
	return NULL;
}

char *snapshot_path_relative(const char *from, const char *target)
{
	size_t common = 0, up = 0, length = 0;
	char *path;

	for (size_t i = 0; from[i] && from[i] == target[i]; i++)
		if (from[i] == '/')
			common = i + 1;
	for (const char *rest = strchr(from + common, '/'); rest; rest = strchr(rest + 1, '/'))
		up++;
	path = malloc(up * 3 + strlen(target + common) + 1);
	if (!path)
		return NULL;
	for (; up; up--, length += 3)
		memcpy(path + length, "../", 3);
	memcpy(path + length, target + common, strlen(target + common) + 1);
	return path;
}

char *snapshot_path_join(const char *from, const char *path)
{
	AUTO_FREE char *folder = NULL;
	char *joined;

	if (path[0] == '/')
		return strdup(path);
	if (!strchr(from, '/'))
		return strdup(path);
	folder = snapshot_path_folder(from);
	if (!folder || asprintf(&joined, "%s/%s", folder, path) < 0)
		return NULL;
	return joined;
}

bool snapshot_path_is_printable(const char *path, size_t length)
{
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)path[i] < ' ' || path[i] == 0x7f)
			return false;
	return true;
}
