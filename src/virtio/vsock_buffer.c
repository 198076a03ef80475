/* SPDX-License-Identifier: BSD-2-Clause */
/* The ring of vsock_buffer.h. The guest controls the bytes. System call: sendmsg. */
#include "virtio/vsock_buffer.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/checked.h"

void vsock_buffer_add(struct vsock_buffer *buffer, const struct iovec *iov, uint16_t count)
{
	for (uint16_t i = 0; i < count; i++) {
		const uint8_t *from = iov[i].iov_base;
		size_t left = iov[i].iov_len;

		assert(left <= VSOCK_BUFFER_SIZE - buffer->used);
		while (left) {
			uint32_t end = (buffer->start + buffer->used) % VSOCK_BUFFER_SIZE;
			size_t stretch = MIN(left, (size_t)VSOCK_BUFFER_SIZE - end);

			memcpy(buffer->bytes + end, from, stretch);
			from += stretch;
			left -= stretch;
			buffer->used += stretch;
		}
	}
}

ssize_t vsock_buffer_flush(struct vsock_buffer *buffer, int fd)
{
	uint32_t first = MIN(buffer->used, VSOCK_BUFFER_SIZE - buffer->start);
	struct iovec iov[2] = {
	    {.iov_base = buffer->bytes + buffer->start, .iov_len = first},
	    {.iov_base = buffer->bytes, .iov_len = buffer->used - first},
	};
	struct msghdr message = {.msg_iov = iov, .msg_iovlen = 2};
	ssize_t sent;

	if (!buffer->used)
		return 0;
	sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	buffer->used -= (uint32_t)sent;
	buffer->start = buffer->used ? (buffer->start + (uint32_t)sent) % VSOCK_BUFFER_SIZE : 0;
	return sent;
}
