/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults of other processes' mappings, see userfault.h.
 *
 * Another process's page table does not learn of a page that comes into the block: who waits there
 * is woken, and finds it. Between a look for the page and the wait for it, it may have come. Such a
 * fault is read when the page is there already, so whoever claims a fault is asked first, and then it
 * is looked whether there is anything to wait for.
 *
 * One thread for each remote. The other process controls what is read from its descriptor.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/thread.h"
#include "memory/userfault_private.h"

struct userfault_remote {
	struct userfault *userfault;
	int fd, stop_fd;
	struct userfault_mapping *mappings; /* by block and offset */
	size_t count;
	pthread_t thread;
	bool started, told;
	struct userfault_remote *next;
};

/* --- Places ------------------------------------------------------------------------------------ */

/* False: nobody has named this address. */
static bool find_mapping(struct userfault_remote *remote, uint64_t address,
			 struct userfault_mapping *mapping)
{
	bool found = false;

	pthread_rwlock_rdlock(&remote->userfault->remotes_lock);
	for (size_t i = 0; i < remote->count && !found; i++) {
		*mapping = remote->mappings[i];
		found = address - mapping->address < mapping->size;
	}
	pthread_rwlock_unlock(&remote->userfault->remotes_lock);
	return found;
}

/* The first mapping of @block that ends behind @offset, or one of another block. Pages come more often than faults. */
static size_t first_behind(const struct userfault_remote *remote, const struct ram_block *block,
			   uint64_t offset)
{
	size_t low = 0, high = remote->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct userfault_mapping *mapping = &remote->mappings[middle];

		if ((uintptr_t)mapping->block < (uintptr_t)block ||
		    (mapping->block == block && mapping->offset + mapping->size <= offset))
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static void wake_mapping(const struct userfault_remote *remote,
			 const struct userfault_mapping *mapping, uint64_t offset, uint64_t size)
{
	uint64_t first = MAX(offset, mapping->offset);
	uint64_t end = MIN(offset + size, mapping->offset + mapping->size);
	struct uffdio_range range = {.start = mapping->address + (first - mapping->offset),
				     .len = end - first};

	/* It fails when that process is gone. */
	if (first < end)
		ioctl(remote->fd, UFFDIO_WAKE, &range);
}

void userfault_wake_remotes(struct userfault *userfault, const struct ram_block *block,
			    uint64_t offset, uint64_t size)
{
	const struct userfault_remote *remote;

	if (!__atomic_load_n(&userfault->remotes, __ATOMIC_SEQ_CST))
		return;
	pthread_rwlock_rdlock(&userfault->remotes_lock);
	for (remote = userfault->remotes; remote; remote = remote->next)
		for (size_t i = first_behind(remote, block, offset);
		     i < remote->count && remote->mappings[i].block == block &&
		     remote->mappings[i].offset < offset + size;
		     i++)
			wake_mapping(remote, &remote->mappings[i], offset, size);
	pthread_rwlock_unlock(&userfault->remotes_lock);
}

/* --- Faults ------------------------------------------------------------------------------------ */

static bool is_there(const struct ram_block *block, uint64_t offset)
{
	unsigned char present = 0;

	return !mincore(block->host + offset, 1, &present) && present & 1;
}

/* Zeros, through that process's own mapping: nobody may be watching here any more. */
static int fill_zeros(const struct userfault_remote *remote, const struct ram_block *block,
		      uint64_t address)
{
	struct uffdio_zeropage zero = {.range = {address, block->page_size}};
	struct uffdio_copy copy = {
	    .dst = address, .src = (uintptr_t)remote->userfault->zeros, .len = block->page_size};
	bool huge = block->page_size > (uint64_t)sysconf(_SC_PAGESIZE);
	int result;

	do
		result = huge ? ioctl(remote->fd, UFFDIO_COPY, &copy)
			      : ioctl(remote->fd, UFFDIO_ZEROPAGE, &zero);
	while (result < 0 && errno == EAGAIN);
	return result < 0 ? -errno : 0;
}

static void settle_fault(struct userfault_remote *remote, const struct userfault_mapping *mapping,
			 uint64_t address)
{
	const struct ram_block *block = mapping->block;
	uint64_t offset =
	    align_down(mapping->offset + (address - mapping->address), block->page_size);
	bool claimed;
	int result;

	pthread_rwlock_rdlock(&remote->userfault->lock);
	claimed = userfault_offer_missing(remote->userfault, block, offset);
	pthread_rwlock_unlock(&remote->userfault->lock);
	if (claimed && !is_there(block, offset))
		return; /* userfault_wake_remotes */
	result = claimed ? -EEXIST
			 : fill_zeros(remote, block, mapping->address + (offset - mapping->offset));
	if (result == -EEXIST) {
		wake_mapping(remote, mapping, offset, block->page_size);
	} else if (result < 0 && result != -ESRCH && !remote->told) {
		remote->told = true;
		log_error("memory '%s': another process waits for the page at offset %#lx, which "
			  "cannot be settled: %s",
			  block->name, offset, strerror(-result));
	}
}

static void handle_message(struct userfault_remote *remote, const struct uffd_msg *message)
{
	struct userfault_mapping mapping;

	/* A process that forks, and has asked to be told, hands a descriptor to the reader. */
	if (message->event == UFFD_EVENT_FORK)
		close((int)message->arg.fork.ufd);
	else if (message->event == UFFD_EVENT_PAGEFAULT &&
		 find_mapping(remote, message->arg.pagefault.address, &mapping))
		settle_fault(remote, &mapping, message->arg.pagefault.address);
}

static void *remote_thread(void *context)
{
	struct userfault_remote *remote = context;
	struct pollfd polls[2] = {{.fd = remote->fd, .events = POLLIN},
				  {.fd = remote->stop_fd, .events = POLLIN}};
	struct uffd_msg message;

	for (;;) {
		if (poll(polls, 2, -1) < 0)
			continue;
		if (polls[1].revents)
			return NULL;
		/* Of a process that is gone nothing comes any more. */
		if (polls[0].revents & (POLLERR | POLLHUP | POLLNVAL))
			polls[0].fd = -1;
		else if (read(remote->fd, &message, sizeof(message)) == (ssize_t)sizeof(message))
			handle_message(remote, &message);
	}
}

/* --- Life -------------------------------------------------------------------------------------- */

static int by_place(const void *first, const void *second)
{
	const struct userfault_mapping *a = first, *b = second;

	if (a->block != b->block)
		return (uintptr_t)a->block < (uintptr_t)b->block ? -1 : 1;
	return a->offset < b->offset ? -1 : a->offset > b->offset;
}

struct error *userfault_remote_map(struct userfault_remote *remote,
				   const struct userfault_mapping *mappings, size_t count)
{
	struct userfault_mapping *copy = calloc(MAX(count, (size_t)1), sizeof(*copy)), *old;

	if (!copy)
		return error_system(ENOMEM, "userfaultfd");
	if (count)
		memcpy(copy, mappings, count * sizeof(*copy));
	qsort(copy, count, sizeof(*copy), by_place);
	pthread_rwlock_wrlock(&remote->userfault->remotes_lock);
	old = remote->mappings;
	remote->mappings = copy;
	remote->count = count;
	pthread_rwlock_unlock(&remote->userfault->remotes_lock);
	free(old);
	return NULL;
}

struct error *userfault_remote_create(struct userfault *userfault, int fd,
				      struct userfault_remote **result)
{
	struct userfault_remote *remote = calloc(1, sizeof(*remote));
	struct error *error = NULL;

	if (!remote) {
		close(fd);
		return error_system(ENOMEM, "userfaultfd");
	}
	remote->userfault = userfault;
	remote->fd = fd;
	remote->stop_fd = eventfd(0, EFD_CLOEXEC);
	if (remote->stop_fd < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
		error = error_system(errno, "userfaultfd");
	if (!error)
		error = thread_start(&remote->thread, "fault-remote", remote_thread, remote);
	remote->started = !error;
	pthread_rwlock_wrlock(&userfault->remotes_lock);
	remote->next = userfault->remotes;
	__atomic_store_n(&userfault->remotes, remote, __ATOMIC_SEQ_CST);
	pthread_rwlock_unlock(&userfault->remotes_lock);
	if (error)
		userfault_remote_destroy(remote);
	else
		*result = remote;
	return error;
}

void userfault_remote_destroy(struct userfault_remote *remote)
{
	struct userfault_remote **link;

	if (!remote)
		return;
	if (remote->started) {
		eventfd_write(remote->stop_fd, 1);
		pthread_join(remote->thread, NULL);
	}
	pthread_rwlock_wrlock(&remote->userfault->remotes_lock);
	for (link = &remote->userfault->remotes; *link != remote; link = &(*link)->next)
		;
	__atomic_store_n(link, remote->next, __ATOMIC_SEQ_CST);
	pthread_rwlock_unlock(&remote->userfault->remotes_lock);
	close_fd(&remote->stop_fd);
	close_fd(&remote->fd);
	free(remote->mappings);
	free(remote);
}
