/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The port over an UDP socket. Packets are collected and leave with one system call, those of the same
 * length to the same peer as one long datagram that the kernel cuts apart.
 *
 * The invariant CRC covers the identification of IPv4, which is the kernel's. It is known to be 0 for
 * packets that must not be fragmented from a socket that is not connected, and to count from 0 within
 * a long datagram that is cut apart.
 *
 * Runs on the engine's thread. Anyone can send to the port: lengths are bounded, and the CRC is
 * checked before the engine sees anything. System calls: socket, setsockopt, bind, sendmmsg, recvmmsg,
 * close.
 */
#include <errno.h>
#include <godwit/rdma.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "rdma/icrc.h"
#include "rdma/packet.h"

#define BATCH	      64U /* packets that are collected */
#define FRAME_MAX     (GODWIT_RDMA_PACKET_MAX + RDMA_ICRC_SIZE)
#define DATAGRAM_MAX  65000U /* of one that is cut apart: below what IPv4 can carry */
#define RECEIVES      16U    /* datagrams a system call */
#define RECEIVE_MAX   65536U /* of one: several that the kernel has put together */
#define SOCKET_BUFFER (4 << 20)

struct frame {
	struct godwit_rdma_ends ends;
	uint32_t size; /* without the CRC */
	uint8_t bytes[FRAME_MAX];
};

struct godwit_rdma_udp {
	int fd;
	uint8_t address[16];
	bool v4, cuts; /* the kernel cuts long datagrams apart */
	struct rdma_crc crc;
	struct godwit_rdma_udp_counters counters;
	uint32_t count; /* of frames; the one after them is the reserved one */
	struct frame frames[BATCH];
	struct rdma_fragment last;	     /* that came */
	uint32_t factors[FRAME_MAX / 4 + 1]; /* by size / 4; 0: not computed */
	uint8_t received[RECEIVES][RECEIVE_MAX];
};

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t to_socket_address(const struct godwit_rdma_udp *udp, const uint8_t address[16],
				   union address *result)
{
	memset(result, 0, sizeof(*result));
	if (udp->v4) {
		result->v4.sin_family = AF_INET;
		result->v4.sin_port = htons(GODWIT_RDMA_UDP_PORT);
		memcpy(&result->v4.sin_addr, address + 12, 4);
		return sizeof(result->v4);
	}
	result->v6.sin6_family = AF_INET6;
	result->v6.sin6_port = htons(GODWIT_RDMA_UDP_PORT);
	memcpy(&result->v6.sin6_addr, address, 16);
	return sizeof(result->v6);
}

/* --- Opening ----------------------------------------------------------------------------------- */

static bool set_option(int fd, int level, int option, int value)
{
	return !setsockopt(fd, level, option, &value, sizeof(value));
}

static int prepare(struct godwit_rdma_udp *udp, bool ahead)
{
	union address address;
	socklen_t size = to_socket_address(udp, udp->address, &address);

	udp->fd =
	    socket(udp->v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (udp->fd < 0)
		return -errno;
	if (ahead && (udp->v4 ? !set_option(udp->fd, IPPROTO_IP, IP_FREEBIND, 1)
			      : !set_option(udp->fd, IPPROTO_IPV6, IPV6_FREEBIND, 1)))
		return -errno;
	/* Packets that must not be fragmented have the identification 0. */
	if (udp->v4 ? !set_option(udp->fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
		    : (!set_option(udp->fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO) ||
		       !set_option(udp->fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) ||
		       /* rxe leaves the checksum out: there is a CRC. */
		       !set_option(udp->fd, IPPROTO_UDP, UDP_NO_CHECK6_RX, 1)))
		return -errno;
	/* Faster with them, and right without. */
	udp->cuts = set_option(udp->fd, IPPROTO_UDP, UDP_SEGMENT, 0);
	set_option(udp->fd, IPPROTO_UDP, UDP_GRO, 1);
	if (!set_option(udp->fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER))
		set_option(udp->fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
	if (!set_option(udp->fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER))
		set_option(udp->fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	return bind(udp->fd, &address.any, size) < 0 ? -errno : 0;
}

static int open_port(const uint8_t address[16], bool ahead, struct godwit_rdma_udp **result)
{
	static const uint8_t any[16];
	struct godwit_rdma_udp *udp;
	int status;

	*result = NULL;
	if (!memcmp(address, any, 16) ||
	    (rdma_address_is_v4(address) && !memcmp(address + 12, any, 4)))
		return -EINVAL;
	udp = calloc(1, sizeof(*udp));
	if (!udp)
		return -ENOMEM;
	memcpy(udp->address, address, 16);
	udp->v4 = rdma_address_is_v4(address);
	udp->last.dont_fragment = true;
	rdma_crc_init(&udp->crc, true);
	status = prepare(udp, ahead);
	if (status < 0) {
		godwit_rdma_udp_close(udp);
		return status;
	}
	*result = udp;
	return 0;
}

int godwit_rdma_udp_open(const uint8_t address[16], struct godwit_rdma_udp **udp)
{
	return open_port(address, false, udp);
}

int godwit_rdma_udp_open_ahead(const uint8_t address[16], struct godwit_rdma_udp **udp)
{
	return open_port(address, true, udp);
}

void godwit_rdma_udp_close(struct godwit_rdma_udp *udp)
{
	if (udp)
		close_fd(&udp->fd);
	free(udp);
}

int godwit_rdma_udp_fd(const struct godwit_rdma_udp *udp)
{
	return udp->fd;
}

bool godwit_rdma_udp_waits(const struct godwit_rdma_udp *udp)
{
	return udp->count;
}

void godwit_rdma_udp_get_counters(const struct godwit_rdma_udp *udp,
				  struct godwit_rdma_udp_counters *counters)
{
	*counters = udp->counters;
}

/* --- Sending ----------------------------------------------------------------------------------- */

/* How many of the frames from @first on can leave as one datagram. */
static uint32_t group_size(const struct godwit_rdma_udp *udp, uint32_t first)
{
	const struct frame *frame = &udp->frames[first];
	uint32_t size = frame->size + RDMA_ICRC_SIZE, count = 1;

	while (udp->cuts && first + count < udp->count && (count + 1) * size <= DATAGRAM_MAX) {
		const struct frame *next = &udp->frames[first + count];

		if (next->size > frame->size ||
		    memcmp(next->ends.destination, frame->ends.destination, 16) != 0)
			break;
		count++;
		/* Only the last one may be shorter. */
		if (next->size < frame->size)
			break;
	}
	return count;
}

/* Fills the frame's CRC in, for place @index of its datagram. */
static void put_crc(struct godwit_rdma_udp *udp, struct frame *frame, uint32_t index)
{
	struct rdma_fragment fragment = {(uint16_t)index, true};

	put_le32(frame->bytes + frame->size,
		 rdma_icrc(&udp->crc, &frame->ends, fragment, frame->bytes, frame->size));
}

/* A message of @count frames from @first on. */
struct message {
	union address to;
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control;
	uint32_t first, count;
};

static void make_message(struct godwit_rdma_udp *udp, struct message *message, struct iovec *parts,
			 struct msghdr *header)
{
	struct frame *frames = &udp->frames[message->first];
	uint16_t size = (uint16_t)(frames->size + RDMA_ICRC_SIZE);

	*header = (struct msghdr){
	    .msg_name = &message->to,
	    .msg_namelen = to_socket_address(udp, frames->ends.destination, &message->to),
	    .msg_iov = parts,
	    .msg_iovlen = message->count};
	for (uint32_t i = 0; i < message->count; i++) {
		put_crc(udp, &frames[i], i);
		parts[i] = (struct iovec){frames[i].bytes, frames[i].size + RDMA_ICRC_SIZE};
	}
	if (message->count == 1)
		return;
	memset(&message->control, 0, sizeof(message->control));
	message->control.header.cmsg_level = IPPROTO_UDP;
	message->control.header.cmsg_type = UDP_SEGMENT;
	message->control.header.cmsg_len = CMSG_LEN(sizeof(size));
	memcpy(CMSG_DATA(&message->control.header), &size, sizeof(size));
	header->msg_control = &message->control;
	header->msg_controllen = sizeof(message->control);
}

/* Sends frames from @first on with one system call. Returns how many are done with; 0: later. */
static uint32_t send_some(struct godwit_rdma_udp *udp, uint32_t first)
{
	struct message messages[BATCH];
	struct mmsghdr headers[BATCH] = {0};
	struct iovec parts[BATCH];
	uint32_t count = 0, done = 0;
	int sent;

	for (uint32_t at = first; at < udp->count; at += messages[count++].count) {
		messages[count].first = at;
		messages[count].count = group_size(udp, at);
		make_message(udp, &messages[count], &parts[at], &headers[count].msg_hdr);
	}
	sent = sendmmsg(udp->fd, headers, count, MSG_NOSIGNAL);
	for (int i = 0; i < sent; i++)
		done += messages[i].count;
	udp->counters.sent += done;
	if (sent > 0)
		return done;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR)
		return 0;
	/* This kernel, or the way to this peer, cannot cut. */
	if (messages[0].count > 1 && (errno == EIO || errno == EINVAL || errno == EMSGSIZE)) {
		udp->cuts = false;
		return send_some(udp, first);
	}
	/* What cannot be sent is lost, as on any network. */
	udp->counters.unsent += messages[0].count;
	return messages[0].count;
}

static void flush(void *context)
{
	struct godwit_rdma_udp *udp = context;
	uint32_t first = 0, done;

	while (first < udp->count) {
		done = send_some(udp, first);
		if (!done)
			break;
		first += done;
	}
	/* Few are left, and seldom. */
	for (uint32_t i = first; first && i < udp->count; i++)
		udp->frames[i - first] = udp->frames[i];
	udp->count -= first;
}

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct godwit_rdma_udp *udp = context;
	struct frame *frame;

	if (udp->count == BATCH)
		flush(udp);
	if (udp->count == BATCH)
		return NULL;
	frame = &udp->frames[udp->count];
	frame->ends = *ends;
	frame->size = size;
	/* The kernel's, whatever the queue pair says. */
	memcpy(frame->ends.source, udp->address, 16);
	frame->ends.source_port = GODWIT_RDMA_UDP_PORT;
	return frame->bytes;
}

static void commit(void *context)
{
	struct godwit_rdma_udp *udp = context;

	/* An address of the other kind cannot be reached from this socket. */
	if (rdma_address_is_v4(udp->frames[udp->count].ends.destination) == udp->v4)
		udp->count++;
	else
		udp->counters.unsent++;
}

struct godwit_rdma_port godwit_rdma_udp_port(struct godwit_rdma_udp *udp)
{
	return (struct godwit_rdma_port){
	    .reserve = reserve, .commit = commit, .flush = flush, .context = udp};
}

/* --- Receiving --------------------------------------------------------------------------------- */

static void from_socket_address(const union address *address, struct godwit_rdma_ends *ends)
{
	if (address->any.sa_family == AF_INET) {
		ends->source_port = ntohs(address->v4.sin_port);
		memset(ends->source, 0, 10);
		memset(ends->source + 10, 0xff, 2);
		memcpy(ends->source + 12, &address->v4.sin_addr, 4);
	} else {
		ends->source_port = ntohs(address->v6.sin6_port);
		memcpy(ends->source, &address->v6.sin6_addr, 16);
	}
}

/* True if the packet's CRC, which follows its @size bytes, is right. */
static bool check_crc(struct godwit_rdma_udp *udp, const struct godwit_rdma_ends *ends,
		      const uint8_t *packet, uint32_t size)
{
	struct rdma_fragment fragment = {(uint16_t)(udp->last.id + 1), udp->last.dont_fragment};
	uint32_t *factor = &udp->factors[size / 4];

	if (!*factor)
		*factor = rdma_crc_rewind_factor(&udp->crc, rdma_icrc_rewinds(size));
	if (!rdma_icrc_find(&udp->crc, ends, &fragment, packet, size, get_le32(packet + size),
			    *factor))
		return false;
	udp->last = fragment;
	return true;
}

static void take_packet(struct godwit_rdma_udp *udp, struct godwit_rdma *engine,
			const struct godwit_rdma_ends *ends, const uint8_t *bytes, size_t size,
			int64_t now)
{
	if (size < RDMA_BTH_SIZE + RDMA_ICRC_SIZE || size > FRAME_MAX || size % 4 ||
	    !check_crc(udp, ends, bytes, (uint32_t)size - RDMA_ICRC_SIZE)) {
		udp->counters.bad_crc++;
		return;
	}
	udp->counters.received++;
	godwit_rdma_receive(engine, ends, bytes, size - RDMA_ICRC_SIZE, now);
}

/* The length of each packet in a datagram that the kernel has put together; 0: it has not. */
static size_t piece_of(struct msghdr *header)
{
	for (struct cmsghdr *control = CMSG_FIRSTHDR(header); control;
	     control = CMSG_NXTHDR(header, control)) {
		int size;

		if (control->cmsg_level == IPPROTO_UDP && control->cmsg_type == UDP_GRO) {
			memcpy(&size, CMSG_DATA(control), sizeof(size));
			return size > 0 ? (size_t)size : 0;
		}
	}
	return 0;
}

uint32_t godwit_rdma_udp_receive(struct godwit_rdma_udp *udp, struct godwit_rdma *engine,
				 int64_t now)
{
	struct godwit_rdma_ends ends = {0};
	struct mmsghdr headers[RECEIVES] = {0};
	struct iovec parts[RECEIVES];
	union address from[RECEIVES];
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} controls[RECEIVES];
	uint32_t taken = 0;
	int count;

	for (uint32_t i = 0; i < RECEIVES; i++) {
		parts[i] = (struct iovec){udp->received[i], RECEIVE_MAX};
		headers[i].msg_hdr = (struct msghdr){.msg_name = &from[i],
						     .msg_namelen = sizeof(from[i]),
						     .msg_iov = &parts[i],
						     .msg_iovlen = 1,
						     .msg_control = &controls[i],
						     .msg_controllen = sizeof(controls[i])};
	}
	count = recvmmsg(udp->fd, headers, RECEIVES, 0, NULL);
	memcpy(ends.destination, udp->address, 16);
	for (int i = 0; i < count; i++) {
		size_t size = headers[i].msg_len, piece = piece_of(&headers[i].msg_hdr);

		from_socket_address(&from[i], &ends);
		if (!piece)
			piece = MAX(size, (size_t)1);
		for (size_t at = 0; at == 0 || at < size; at += piece, taken++)
			take_packet(udp, engine, &ends, udp->received[i] + at,
				    MIN(piece, size - at), now);
	}
	return taken;
}
