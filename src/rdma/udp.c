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
 * checked before the engine sees anything. System calls: socket, setsockopt, bind, sendmsg,
 * sendmmsg, recvmsg, recvmmsg, close.
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

/* Packets that are collected: as many as one datagram has of those of 1 KiB, or four of those of 4 KiB. */
#define BATCH	      60U
#define FRAME_MAX     (GODWIT_RDMA_PACKET_MAX + RDMA_ICRC_SIZE)
#define DATAGRAM_MAX  65000U /* of one that is cut apart: below what IPv4 can carry */
#define RECEIVES      16U    /* datagrams a system call */
#define RECEIVE_MAX   65536U /* of one: several that the kernel has put together */
#define SOCKET_BUFFER (4 << 20)

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* What recvmmsg fills beside the bytes. */
struct incoming {
	struct iovec part;
	union address from;
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(int))];
	} control;
};

/* A packet that is to leave. */
struct frame {
	struct godwit_rdma_ends ends;
	uint32_t size; /* without the CRC */
	uint32_t at;   /* in @bytes of the port, one after the other */
};

struct godwit_rdma_udp {
	int fd;
	uint8_t address[16];
	bool v4, cuts; /* the kernel cuts long datagrams apart */
	struct rdma_crc crc;
	struct rdma_icrc_memo sent, came;
	struct godwit_rdma_udp_counters counters;
	uint32_t count; /* of frames; the one after them is the reserved one */
	struct frame frames[BATCH];
	uint8_t bytes[BATCH * FRAME_MAX];
	struct rdma_fragment last;	     /* that came */
	bool from_zero;			     /* the last datagram's identifications began with 0 */
	bool idle;			     /* nothing had come when it was asked last */
	uint32_t factors[FRAME_MAX / 4 + 1]; /* by size / 4; 0: not computed */
	/* Of recvmmsg: what it has changed is put back after it. */
	struct mmsghdr headers[RECEIVES];
	struct incoming incoming[RECEIVES];
	uint8_t received[RECEIVES][RECEIVE_MAX];
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

static void expect_datagram(struct godwit_rdma_udp *udp, uint32_t index)
{
	struct incoming *incoming = &udp->incoming[index];

	udp->headers[index].msg_hdr = (struct msghdr){.msg_name = &incoming->from,
						      .msg_namelen = sizeof(incoming->from),
						      .msg_iov = &incoming->part,
						      .msg_iovlen = 1,
						      .msg_control = &incoming->control,
						      .msg_controllen = sizeof(incoming->control)};
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
	for (uint32_t i = 0; i < RECEIVES; i++) {
		udp->incoming[i].part = (struct iovec){udp->received[i], RECEIVE_MAX};
		expect_datagram(udp, i);
	}
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
static void put_crc(struct godwit_rdma_udp *udp, const struct frame *frame, uint32_t index)
{
	struct rdma_fragment fragment = {(uint16_t)index, true};
	uint8_t *bytes = udp->bytes + frame->at;

	put_le32(bytes + frame->size, rdma_icrc_again(&udp->crc, &udp->sent, &frame->ends, fragment,
						      bytes, frame->size));
}

/* A message of @count frames from @first on. */
struct message {
	union address to;
	struct iovec part;
	uint32_t count;
	union {
		struct cmsghdr header;
		uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
	} control;
};

static void make_message(struct godwit_rdma_udp *udp, uint32_t first, struct message *message,
			 struct msghdr *header)
{
	const struct frame *frames = &udp->frames[first], *last = &frames[message->count - 1];
	uint16_t size = (uint16_t)(frames->size + RDMA_ICRC_SIZE);

	for (uint32_t i = 0; i < message->count; i++)
		put_crc(udp, &frames[i], i);
	message->part = (struct iovec){udp->bytes + frames->at,
				       last->at + last->size + RDMA_ICRC_SIZE - frames->at};
	*header = (struct msghdr){
	    .msg_name = &message->to,
	    .msg_namelen = to_socket_address(udp, frames->ends.destination, &message->to),
	    .msg_iov = &message->part,
	    .msg_iovlen = 1};
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
	struct mmsghdr headers[BATCH];
	uint32_t count = 0, done = 0;
	int sent;

	for (uint32_t at = first; at < udp->count; at += messages[count++].count) {
		messages[count].count = group_size(udp, at);
		make_message(udp, at, &messages[count], &headers[count].msg_hdr);
	}
	/* For one message the simpler call is the quicker one; so it is for receiving. */
	if (count == 1)
		sent = sendmsg(udp->fd, &headers->msg_hdr, MSG_NOSIGNAL) < 0 ? -1 : 1;
	else
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

/* The place after the frames. */
static uint32_t end_of(const struct godwit_rdma_udp *udp)
{
	const struct frame *last;

	if (!udp->count)
		return 0;
	last = &udp->frames[udp->count - 1];
	return last->at + last->size + RDMA_ICRC_SIZE;
}

static void flush(void *context)
{
	struct godwit_rdma_udp *udp = context;
	uint32_t first = 0, gone, done;

	while (first < udp->count) {
		done = send_some(udp, first);
		if (!done)
			break;
		first += done;
	}
	if (!first)
		return;
	/* Few are left, and seldom. */
	if (first < udp->count) {
		gone = udp->frames[first].at;
		memmove(udp->bytes, udp->bytes + gone, end_of(udp) - gone);
		for (uint32_t i = first; i < udp->count; i++) {
			udp->frames[i - first] = udp->frames[i];
			udp->frames[i - first].at -= gone;
		}
	}
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
	frame->at = end_of(udp);
	/* The kernel's, whatever the queue pair says. */
	memcpy(frame->ends.source, udp->address, 16);
	frame->ends.source_port = GODWIT_RDMA_UDP_PORT;
	return udp->bytes + frame->at;
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

/* True if the packet's CRC, which follows its @size bytes, is right. @first: of what the kernel gave. */
static bool check_crc(struct godwit_rdma_udp *udp, const struct godwit_rdma_ends *ends,
		      const uint8_t *packet, uint32_t size, bool first)
{
	struct rdma_fragment fragment = {(uint16_t)(udp->last.id + 1), udp->last.dont_fragment};
	uint32_t *factor = &udp->factors[size / 4];

	/* A port like this one cuts anew. */
	if (first && udp->from_zero)
		fragment.id = 0;
	if (!*factor)
		*factor = rdma_crc_rewind_factor(&udp->crc, rdma_icrc_rewinds(size));
	if (!rdma_icrc_find(&udp->crc, &udp->came, ends, &fragment, packet, size,
			    get_le32(packet + size), *factor))
		return false;
	udp->last = fragment;
	if (first)
		udp->from_zero = !fragment.id;
	return true;
}

static void take_packet(struct godwit_rdma_udp *udp, struct godwit_rdma *engine,
			const struct godwit_rdma_ends *ends, const uint8_t *bytes, size_t size,
			bool first, int64_t now)
{
	if (size < RDMA_BTH_SIZE + RDMA_ICRC_SIZE || size > FRAME_MAX || size % 4 ||
	    !check_crc(udp, ends, bytes, (uint32_t)size - RDMA_ICRC_SIZE, first)) {
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

/* One datagram where nothing came before, else many. What is waited for comes 0.7 us sooner that way. */
static int receive_some(struct godwit_rdma_udp *udp)
{
	ssize_t size;
	int count;

	if (!udp->idle) {
		count = recvmmsg(udp->fd, udp->headers, RECEIVES, 0, NULL);
		udp->idle = count <= 0;
		return count;
	}
	size = recvmsg(udp->fd, &udp->headers[0].msg_hdr, 0);
	udp->idle = size < 0;
	if (udp->idle)
		return 0;
	udp->headers[0].msg_len = (unsigned int)size;
	return 1;
}

uint32_t godwit_rdma_udp_receive(struct godwit_rdma_udp *udp, struct godwit_rdma *engine,
				 int64_t now)
{
	struct godwit_rdma_ends ends = {0};
	uint32_t taken = 0;
	int count = receive_some(udp);

	memcpy(ends.destination, udp->address, 16);
	for (int i = 0; i < count; i++) {
		size_t size = udp->headers[i].msg_len, piece = piece_of(&udp->headers[i].msg_hdr);

		from_socket_address(&udp->incoming[i].from, &ends);
		expect_datagram(udp, (uint32_t)i);
		if (!piece)
			piece = MAX(size, (size_t)1);
		for (size_t at = 0; at == 0 || at < size; at += piece, taken++)
			take_packet(udp, engine, &ends, udp->received[i] + at,
				    MIN(piece, size - at), at == 0, now);
	}
	return taken;
}
