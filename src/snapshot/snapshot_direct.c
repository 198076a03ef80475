/* SPDX-License-Identifier: BSD-2-Clause */
/* See snapshot_direct.h. Any thread. */
#include "snapshot/snapshot_direct.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "snapshot/snapshot_format.h"

/* Whether requests of whole pages are aligned enough. Kernels before 6.1 do not say: assume so. */
static bool takes_pages(int fd)
{
	struct statx status;

	if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) < 0 ||
	    !(status.stx_mask & STATX_DIOALIGN))
		return true;
	return status.stx_dio_offset_align && status.stx_dio_offset_align <= SNAPSHOT_PAGE_SIZE &&
	       status.stx_dio_mem_align <= SNAPSHOT_PAGE_SIZE;
}

struct error *snapshot_direct_open(int fd, int flags, enum snapshot_direct want, const char *path,
				   int *result, bool *direct)
{
	AUTO_CLOSE int opened = -1;
	char name[64];

	snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	*direct = want != SNAPSHOT_DIRECT_OFF;
	if (*direct)
		opened = open(name, flags | O_DIRECT | O_CLOEXEC);
	if (want == SNAPSHOT_DIRECT_ON &&
	    ((opened < 0 && errno == EINVAL) || (opened >= 0 && !takes_pages(opened))))
		return error_new(EINVAL, "the file system of %s has no direct I/O: leave that out",
				 path);
	if (want == SNAPSHOT_DIRECT_AUTO && (opened < 0 || !takes_pages(opened))) {
		close_fd(&opened);
		*direct = false;
	}
	if (!*direct)
		opened = open(name, flags | O_CLOEXEC);
	if (opened < 0)
		return error_system(errno, "cannot open the pages of %s", path);
	*result = opened;
	opened = -1;
	return NULL;
}
