/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The RDMA device's port over the machine's own network interface: of the frames that come for the guest,
 * those of RoCE v2 to one of its addresses are taken before the network device gives them to its driver
 * (net_pair.h), and what the engine sends leaves as frames of the same interface. So RDMA has the
 * addresses of the interface, and goes where it goes. The next hop is the guest's to know: its driver says
 * the Ethernet address with each address.
 *
 * Packets of one length between the same ends leave as one long frame where the kernel can cut it apart
 * (TUN_F_USO4): a bridge hands it on whole to an interface that takes such.
 *
 * Two threads: frames come on one of the network device's (tap_take), which copies them into a buffer under the
 * lock and wakes the device's, on which everything else runs. A full buffer loses what comes, as a network
 * does; so does an interface that takes no more.
 *
 * Anyone on the network controls what comes. Each packet's CRC is checked, all 32 bits, before the engine sees it.
 *
 * System calls: eventfd, fcntl, read, write, close.
 */
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "rdma/frame.h"
#include "rdma/packet.h"
#include "virtio/net.h"
#include "virtio/rdma.h"

#define BUFFER_SIZE                                                                                \
	(UINT32_C(1)                                                                               \
	 << 20)		 /* of frames that wait: 200 of the largest; untouched pages cost nothing */
#define TURN	     64U /* packets that the engine is given in one go */
#define LENGTH_SIZE  4U
#define UDP_SIZE     8U
#define UDP_CHECKSUM 6U /* offset */
#define HEADERS_MAX  (NET_HEADER_SIZE + RDMA_FRAME_HEADERS_MAX)
#define PACKET_MAX   (GODWIT_RDMA_PACKET_MAX + RDMA_ICRC_SIZE)
#define DATAGRAM_MAX 65000U /* of one that is cut apart: below what IPv4 can carry */
#define PIECES_MAX   64U    /* as many as UDP_MAX_SEGMENTS of kernels that have fewest */

/* Frames, each behind its length. */
struct frames {
	uint8_t *bytes;
	uint32_t size, taken;
};

struct tap_port {
	struct virtio_device *net;
	uint8_t mac[6];
	int fd;	  /* of the interface */
	int wake; /* readable while frames wait */
	struct rdma_crc crc;
	pthread_mutex_t lock; /* guards `coming`, `lost` and `addresses`, see above */
	struct frames coming, here;
	uint8_t addresses[VIRTIO_RDMA_ADDRESSES][16];
	uint64_t received, bad, lost, unsent; /* packets; @lost: frames */
	/* What is being sent: @count packets of @piece bytes each, the last one may be shorter. */
	bool cuts; /* the kernel cuts long datagrams apart */
	struct godwit_rdma_ends ends;
	uint32_t count, piece, size; /* @size: of all */
	uint32_t reserved;	     /* bytes of the next one; with the CRC, as these are */
	uint8_t frame[HEADERS_MAX + DATAGRAM_MAX];
};

/* --- Receiving --------------------------------------------------------------------------------- */

/* The lock is held. */
static bool is_own(const struct tap_port *port, const uint8_t address[16])
{
	for (uint32_t i = 0; i < VIRTIO_RDMA_ADDRESSES; i++)
		if (!memcmp(port->addresses[i], address, 16))
			return true;
	return false;
}

/* Lets the frame of @size bytes wait. The lock is held. */
static void put_frame(struct tap_port *port, const uint8_t *packet, size_t size)
{
	struct frames *coming = &port->coming;
	uint64_t one = 1;

	if (size > BUFFER_SIZE - LENGTH_SIZE - MIN(coming->size, BUFFER_SIZE - LENGTH_SIZE)) {
		port->lost++;
		return;
	}
	put_le32(coming->bytes + coming->size, (uint32_t)size);
	memcpy(coming->bytes + coming->size + LENGTH_SIZE, packet, size);
	/* It cannot be full. */
	if (!coming->size && write(port->wake, &one, sizeof(one)) < 0)
		port->lost++;
	coming->size += LENGTH_SIZE + (uint32_t)size;
}

/* On a thread of the network device. */
static bool tap_take(void *context, const uint8_t *packet, size_t size)
{
	struct tap_port *port = context;
	struct rdma_frame frame;
	bool own;

	/* Datagrams that are to be cut apart are several packets; other kinds are none. */
	if (packet[NET_HEADER_GSO_TYPE] != NET_GSO_NONE &&
	    packet[NET_HEADER_GSO_TYPE] != NET_GSO_UDP_L4)
		return false;
	if (!rdma_frame_decode(packet + NET_HEADER_SIZE, size - NET_HEADER_SIZE, &frame) ||
	    rdma_address_is_none(frame.ends.destination))
		return false;
	pthread_mutex_lock(&port->lock);
	own = is_own(port, frame.ends.destination);
	if (own)
		put_frame(port, packet, size);
	pthread_mutex_unlock(&port->lock);
	return own;
}

static void take_packet(struct tap_port *port, struct godwit_rdma *engine,
			const struct rdma_frame *frame, struct rdma_fragment fragment,
			const uint8_t *bytes, uint32_t size, int64_t now)
{
	if (size < RDMA_BTH_SIZE + RDMA_ICRC_SIZE || size > PACKET_MAX || size % 4 ||
	    rdma_icrc(&port->crc, &frame->ends, fragment, bytes, size - RDMA_ICRC_SIZE) !=
		get_le32(bytes + size - RDMA_ICRC_SIZE)) {
		port->bad++;
		return;
	}
	port->received++;
	godwit_rdma_receive(engine, &frame->ends, bytes, size - RDMA_ICRC_SIZE, now);
}

/* The packets of one frame. Returns how many there were. */
static uint32_t take_frame(struct tap_port *port, struct godwit_rdma *engine, const uint8_t *packet,
			   uint32_t size, int64_t now)
{
	uint32_t piece = get_le16(packet + NET_HEADER_GSO_SIZE), count = 0;
	struct rdma_fragment fragment;
	struct rdma_frame frame;

	if (!rdma_frame_decode(packet + NET_HEADER_SIZE, size - NET_HEADER_SIZE, &frame))
		return 0;
	if (packet[NET_HEADER_GSO_TYPE] == NET_GSO_NONE || !piece)
		piece = MAX(frame.size, 1U);
	fragment = frame.fragment;
	/* The identification counts within what is cut apart. */
	for (uint32_t at = 0; at < frame.size; at += piece, count++, fragment.id++)
		take_packet(port, engine, &frame, fragment, frame.datagram + at,
			    MIN(piece, frame.size - at), now);
	return count;
}

/* Lets what has come be here. */
static void fetch(struct tap_port *port)
{
	struct frames empty = {.bytes = port->here.bytes};

	pthread_mutex_lock(&port->lock);
	port->here = port->coming;
	port->coming = empty;
	pthread_mutex_unlock(&port->lock);
}

/* Before the last look, so that no frame comes unnoticed. */
static void sleep_again(struct tap_port *port)
{
	uint64_t count;

	pthread_mutex_lock(&port->lock);
	if (!port->coming.size && read(port->wake, &count, sizeof(count)) < 0 && errno != EAGAIN)
		port->lost++;
	pthread_mutex_unlock(&port->lock);
}

static uint32_t receive(void *context, struct godwit_rdma *engine, int64_t now)
{
	struct tap_port *port = context;
	struct frames *here = &port->here;
	uint32_t count = 0;

	if (here->taken == here->size)
		fetch(port);
	while (here->taken < here->size && count < TURN) {
		const uint8_t *next = here->bytes + here->taken;
		uint32_t size = get_le32(next);

		here->taken += LENGTH_SIZE + size;
		count += MAX(take_frame(port, engine, next + LENGTH_SIZE, size, now), 1U);
	}
	if (here->taken == here->size)
		sleep_again(port);
	return count;
}

static void set_address(void *context, uint32_t index, const uint8_t address[16])
{
	struct tap_port *port = context;

	pthread_mutex_lock(&port->lock);
	memcpy(port->addresses[index], address, sizeof(port->addresses[index]));
	pthread_mutex_unlock(&port->lock);
}

static void set_mac(void *context, const uint8_t mac[6])
{
	struct tap_port *port = context;

	memcpy(port->mac, mac, sizeof(port->mac));
}

/* --- Sending ----------------------------------------------------------------------------------- */

/* What goes to an address of one's own comes back: no bridge would send it there. False: it does not. */
static bool put_own_frame(struct tap_port *port, const uint8_t *packet, size_t size)
{
	bool own;

	pthread_mutex_lock(&port->lock);
	own = is_own(port, port->ends.destination);
	if (own)
		put_frame(port, packet, size);
	pthread_mutex_unlock(&port->lock);
	return own;
}

static void flush(void *context)
{
	struct tap_port *port = context;
	uint8_t *datagram = port->frame + HEADERS_MAX, *headers;
	uint32_t headers_size = rdma_frame_headers_size(&port->ends), size;
	ssize_t written;

	if (!port->count)
		return;
	headers = datagram - headers_size - NET_HEADER_SIZE;
	memset(headers, 0, NET_HEADER_SIZE);
	rdma_frame_encode_headers(&port->ends, port->mac, port->size, headers + NET_HEADER_SIZE);
	if (port->count > 1) {
		uint8_t *udp = datagram - UDP_SIZE;

		headers[NET_HEADER_FLAGS] = NET_HEADER_NEEDS_CSUM;
		headers[NET_HEADER_GSO_TYPE] = NET_GSO_UDP_L4;
		put_le16(headers + NET_HEADER_HDR_LEN, (uint16_t)headers_size);
		put_le16(headers + NET_HEADER_GSO_SIZE, (uint16_t)port->piece);
		put_le16(headers + NET_HEADER_CSUM_START, (uint16_t)(headers_size - UDP_SIZE));
		put_le16(headers + NET_HEADER_CSUM_OFFSET, UDP_CHECKSUM);
		/* The kernel needs a checksum for this, and begins with that of the addresses. */
		put_be16(udp + UDP_CHECKSUM, rdma_frame_pseudo_sum(&port->ends, port->size));
	}
	size = NET_HEADER_SIZE + headers_size + port->size;
	if (!put_own_frame(port, headers, size)) {
		do {
			written = write(port->fd, headers, size);
		} while (written < 0 && errno == EINTR);
		if (written < 0)
			port->unsent += port->count;
	}
	port->count = port->size = 0;
}

/* Whether a packet of @size bytes may follow those that are to be sent. */
static bool joins(const struct tap_port *port, const struct godwit_rdma_ends *ends, uint32_t size)
{
	return port->cuts && port->count < PIECES_MAX && size <= port->piece &&
	       port->size == port->count * port->piece && port->size + size <= DATAGRAM_MAX &&
	       !memcmp(ends->destination, port->ends.destination, sizeof(ends->destination)) &&
	       !memcmp(ends->source, port->ends.source, sizeof(ends->source)) &&
	       !memcmp(ends->next_hop, port->ends.next_hop, sizeof(ends->next_hop)) &&
	       ends->source_port == port->ends.source_port;
}

static uint8_t *reserve(void *context, const struct godwit_rdma_ends *ends, uint32_t size)
{
	struct tap_port *port = context;

	size += RDMA_ICRC_SIZE;
	if (port->count && !joins(port, ends, size))
		flush(port);
	if (!port->count) {
		port->ends = *ends;
		port->piece = size;
	}
	port->reserved = size;
	return port->frame + HEADERS_MAX + port->size;
}

static void commit(void *context)
{
	struct tap_port *port = context;
	uint8_t *packet = port->frame + HEADERS_MAX + port->size;
	uint32_t size = port->reserved - RDMA_ICRC_SIZE;
	struct rdma_fragment fragment = {(uint16_t)port->count, true};

	/* Of one kind, as the engine's own are: what differs has no way. */
	if (rdma_address_is_v4(port->ends.source) != rdma_address_is_v4(port->ends.destination)) {
		port->unsent++;
		return;
	}
	put_le32(packet + size, rdma_icrc(&port->crc, &port->ends, fragment, packet, size));
	port->count++;
	port->size += port->reserved;
	if (!port->cuts)
		flush(port);
}

static bool waits(void *context)
{
	return false;
}

/* The device asks for addresses of its table only. */
static bool sends_from(void *context, const uint8_t address[16])
{
	return true;
}

/* --- Opening ----------------------------------------------------------------------------------- */

static void describe(void *context, json_t *object)
{
	struct tap_port *port = context;
	uint64_t lost;

	pthread_mutex_lock(&port->lock);
	lost = port->lost;
	pthread_mutex_unlock(&port->lock);
	json_object_set_new(object, "net", json_string(port->net->id));
	json_object_set_new(object, "packets-bad-crc", json_integer((json_int_t)port->bad));
	json_object_set_new(object, "frames-lost", json_integer((json_int_t)lost));
	json_object_set_new(object, "packets-unsent", json_integer((json_int_t)port->unsent));
}

static void free_port(struct tap_port *port)
{
	close_fd(&port->fd);
	close_fd(&port->wake);
	free(port->coming.bytes);
	free(port->here.bytes);
	pthread_mutex_destroy(&port->lock);
	free(port);
}

static void close_port(void *context)
{
	struct tap_port *port = context;

	virtio_net_keep_frames(port->net);
	free_port(port);
}

static struct error *prepare(struct tap_port *port)
{
	const struct net_taker taker = {tap_take, port};

	port->coming.bytes = malloc(BUFFER_SIZE);
	port->here.bytes = malloc(BUFFER_SIZE);
	if (!port->coming.bytes || !port->here.bytes)
		return error_system(ENOMEM, "buffers for frames");
	port->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (port->wake < 0)
		return error_system(errno, "eventfd");
	return virtio_net_share_frames(port->net, &taker, &port->fd, &port->cuts);
}

struct error *virtio_rdma_tap_port_open(struct virtio_device *net, struct virtio_rdma_port *result)
{
	struct tap_port *port = calloc(1, sizeof(*port));
	struct error *error;

	if (!port)
		return error_system(ENOMEM, "port tap");
	port->net = net;
	port->fd = port->wake = -1;
	pthread_mutex_init(&port->lock, NULL);
	rdma_crc_init(&port->crc, true);
	error = prepare(port);
	if (error) {
		free_port(port);
		return error;
	}
	*result = (struct virtio_rdma_port){
	    .name = "tap",
	    .packets = {.reserve = reserve, .commit = commit, .flush = flush, .context = port},
	    .fd = port->wake,
	    .receive = receive,
	    .waits = waits,
	    .sends_from = sends_from,
	    .set_address = set_address,
	    .set_mac = set_mac,
	    .describe = describe,
	    .close = close_port,
	    .context = port};
	return NULL;
}
