/* SPDX-License-Identifier: BSD-2-Clause */
/* See transport_passing.h. */
#include "migration/transport_passing.h"

#include <string.h>

#include "base/checked.h"

#define CONTROL_SIZE CMSG_SPACE(TRANSPORT_PASSED_MAX * sizeof(int))

struct transport_passing {
	int attached[TRANSPORT_PASSED_MAX], come[TRANSPORT_PASSED_MAX];
	uint32_t attached_count, come_count;
	_Alignas(struct cmsghdr) char out[CONTROL_SIZE];
	_Alignas(struct cmsghdr) char in[CONTROL_SIZE];
};

struct transport_passing *transport_passing_create(void)
{
	return calloc(1, sizeof(struct transport_passing));
}

void transport_passing_free(struct transport_passing *passing)
{
	if (!passing)
		return;
	for (uint32_t i = 0; i < passing->come_count; i++)
		close_fd(&passing->come[i]);
	free(passing);
}

void transport_passing_attach(struct transport_passing *passing, const int *fds, uint32_t count)
{
	passing->attached_count = MIN(count, (uint32_t)TRANSPORT_PASSED_MAX);
	memcpy(passing->attached, fds, passing->attached_count * sizeof(int));
}

void transport_passing_put(struct transport_passing *passing, struct msghdr *message)
{
	size_t size = passing->attached_count * sizeof(int);
	struct cmsghdr *control;

	if (!size)
		return;
	message->msg_control = passing->out;
	message->msg_controllen = CMSG_SPACE(size);
	control = CMSG_FIRSTHDR(message);
	control->cmsg_level = SOL_SOCKET;
	control->cmsg_type = SCM_RIGHTS;
	control->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(control), passing->attached, size);
}

void transport_passing_sent(struct transport_passing *passing)
{
	passing->attached_count = 0;
}

void transport_passing_room(struct transport_passing *passing, struct msghdr *message)
{
	message->msg_control = passing->in;
	message->msg_controllen = sizeof(passing->in);
}

/* True if there was no place for all of them. */
static bool keep(struct transport_passing *passing, const struct cmsghdr *control)
{
	size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	bool full = false;

	for (size_t i = 0; i < count; i++) {
		int fd;

		memcpy(&fd, CMSG_DATA(control) + i * sizeof(fd), sizeof(fd));
		full |= passing->come_count == TRANSPORT_PASSED_MAX;
		if (full)
			close(fd);
		else
			passing->come[passing->come_count++] = fd;
	}
	return full;
}

struct error *transport_passing_get(struct transport_passing *passing, struct msghdr *message)
{
	bool full = message->msg_flags & MSG_CTRUNC;
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control))
		if (control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS)
			full |= keep(passing, control);
	return full ? error_new(EBADMSG, "more than %d descriptors have come along",
				TRANSPORT_PASSED_MAX)
		    : NULL;
}

uint32_t transport_passing_take(struct transport_passing *passing, int fds[TRANSPORT_PASSED_MAX])
{
	uint32_t count = passing->come_count;

	memcpy(fds, passing->come, count * sizeof(int));
	passing->come_count = 0;
	return count;
}
