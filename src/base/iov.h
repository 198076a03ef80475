/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Slices of iovec arrays, for devices that hand the guest's buffers to the kernel without the
 * protocol header at their start. The arrays are those of a request; nothing here checks guest
 * addresses.
 */
#ifndef GODWIT_BASE_IOV_H
#define GODWIT_BASE_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>

/*
 * Drops the first @size bytes of @iov[0 .. count), in place: returns the index of the first entry
 * with bytes left, whose start is moved, or @count if nothing is left.
 */
static inline uint16_t iov_skip(struct iovec *iov, uint16_t count, size_t size)
{
	uint16_t i = 0;

	while (i < count && size >= iov[i].iov_len)
		size -= iov[i++].iov_len;
	if (i < count) {
		iov[i].iov_base = (uint8_t *)iov[i].iov_base + size;
		iov[i].iov_len -= size;
	}
	return i;
}

/* Cuts @iov[0 .. count) to at most @size bytes, in place; returns the entries left. */
static inline uint16_t iov_truncate(struct iovec *iov, uint16_t count, size_t size)
{
	for (uint16_t i = 0; i < count; i++) {
		if (iov[i].iov_len >= size) {
			iov[i].iov_len = size;
			return size ? i + 1 : i;
		}
		size -= iov[i].iov_len;
	}
	return count;
}

/* Copies the first @size bytes of @iov[0 .. count) to @buffer; they must be there. */
static inline void iov_copy_out(const struct iovec *iov, uint16_t count, uint8_t *buffer,
				size_t size)
{
	for (uint16_t i = 0; i < count && size; i++) {
		size_t stretch = size < iov[i].iov_len ? size : iov[i].iov_len;

		memcpy(buffer, iov[i].iov_base, stretch);
		buffer += stretch;
		size -= stretch;
	}
}

/* Copies @size bytes of @buffer to the start of @iov[0 .. count); there must be room. */
static inline void iov_copy_in(const struct iovec *iov, uint16_t count, const uint8_t *buffer,
			       size_t size)
{
	for (uint16_t i = 0; i < count && size; i++) {
		size_t stretch = size < iov[i].iov_len ? size : iov[i].iov_len;

		memcpy(iov[i].iov_base, buffer, stretch);
		buffer += stretch;
		size -= stretch;
	}
}

/* The same from byte @offset on; false if there are fewer bytes, of which those were copied. */
static inline bool iov_copy_out_at(const struct iovec *iov, uint16_t count, uint64_t offset,
				   void *buffer, size_t size)
{
	uint8_t *bytes = buffer;

	for (uint16_t i = 0; i < count && size; i++) {
		size_t stretch;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		stretch = iov[i].iov_len - offset < size ? iov[i].iov_len - offset : size;
		memcpy(bytes, (const uint8_t *)iov[i].iov_base + offset, stretch);
		bytes += stretch;
		size -= stretch;
		offset = 0;
	}
	return !size;
}

static inline bool iov_copy_in_at(const struct iovec *iov, uint16_t count, uint64_t offset,
				  const void *buffer, size_t size)
{
	const uint8_t *bytes = buffer;

	for (uint16_t i = 0; i < count && size; i++) {
		size_t stretch;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		stretch = iov[i].iov_len - offset < size ? iov[i].iov_len - offset : size;
		memcpy((uint8_t *)iov[i].iov_base + offset, bytes, stretch);
		bytes += stretch;
		size -= stretch;
		offset = 0;
	}
	return !size;
}

#endif
