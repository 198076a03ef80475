/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A character device that goes on in another process of this host, chardev.h: the same terminal,
 * file, listening socket and client, by their descriptors.
 *
 * Both processes have the descriptors for a while, and only one of them reads and writes. What one
 * of them has read is in the state; what it was to write and nobody has taken is in a file in
 * memory, `kept_fd`.
 *
 * Runs on the thread of the device's loop. Only memory and descriptors can be lacking.
 */
#include <sys/mman.h>

#include "base/chardev_internal.h"
#include "base/checked.h"

struct error *chardev_share(struct chardev *chardev, struct chardev_descriptors *descriptors)
{
	close_fd(&chardev->kept_fd);
	chardev->kept_fd = memfd_create("output", MFD_CLOEXEC);
	if (chardev->kept_fd < 0)
		return error_system(errno, "character device '%s'", chardev->name);
	chardev->shared = true;
	chardev_update_events(chardev);
	*descriptors = (struct chardev_descriptors){
	    .in = chardev->in_fd,
	    .out = chardev->out_fd,
	    .listen = chardev->listen_fd,
	    .slave = chardev->slave_fd,
	    .kept = chardev->kept_fd,
	};
	return NULL;
}

/* A file in memory takes it all, or the host has no memory: then it is lost and counted. */
static void keep_output(struct chardev *chardev)
{
	size_t first = MIN(chardev->output_used, CHARDEV_OUTPUT_SIZE - chardev->output_start);
	size_t rest = chardev->output_used - first;

	if (pwrite(chardev->kept_fd, chardev->output + chardev->output_start, first, 0) !=
		(ssize_t)first ||
	    pwrite(chardev->kept_fd, chardev->output, rest, (off_t)first) != (ssize_t)rest)
		__atomic_fetch_add(&chardev->dropped, chardev->output_used, __ATOMIC_RELAXED);
}

void chardev_release(struct chardev *chardev)
{
	if (!chardev->shared)
		return;
	chardev_unwatch(chardev);
	chardev->away = true;
	pthread_mutex_lock(&chardev->lock);
	keep_output(chardev);
	pthread_mutex_unlock(&chardev->lock);
}

static void take_output(struct chardev *chardev)
{
	uint8_t bytes[4096];
	off_t offset = 0;
	ssize_t size;

	pthread_mutex_lock(&chardev->lock);
	while (offset < CHARDEV_OUTPUT_SIZE &&
	       (size = pread(chardev->kept_fd, bytes, sizeof(bytes), offset)) > 0) {
		chardev_output_append(chardev, bytes, (size_t)size);
		offset += size;
	}
	chardev_output_flush(chardev);
	pthread_mutex_unlock(&chardev->lock);
}

struct error *chardev_take_over(struct chardev *chardev)
{
	struct error *error = chardev->away ? chardev_watch(chardev) : NULL;

	if (error) {
		chardev_unwatch(chardev);
		return error;
	}
	chardev->away = false;
	if (chardev->adopted)
		take_output(chardev);
	chardev->adopted = false;
	chardev_update_events(chardev);
	return NULL;
}

void chardev_unshare(struct chardev *chardev)
{
	chardev->shared = chardev->still = false;
	close_fd(&chardev->kept_fd);
	chardev_update_events(chardev);
}
