/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One queue pair of a network device: a receive queue, a transmit queue and the back-end's
 * descriptor for both. This is the data path; private to the network device (net.c).
 *
 * A pair belongs to one loop, which net_pair_* functions run on unless they say otherwise.
 */
#ifndef GODWIT_VIRTIO_NET_PAIR_H
#define GODWIT_VIRTIO_NET_PAIR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/event_loop.h"
#include "base/state.h"
#include "virtio/net_header.h"
#include "virtio/virtio_device.h"

#define NET_QUEUE_SIZE 256
/* A chain has at most as many buffers as the queue has entries; a few more where they cross
 * regions. */
#define NET_IOV_MAX (NET_QUEUE_SIZE + 8)

/* Since start. Written by the pair's loop, read by any thread, hence atomic. */
struct net_counters {
	uint64_t rx_packets, rx_bytes;
	uint64_t rx_dropped; /* larger than what the driver provides for */
	uint64_t tx_packets, tx_bytes;
	uint64_t tx_dropped; /* invalid header or size, or refused by the interface */
};

/*
 * Who takes frames that came before the driver gets them. @packet of @size bytes is a private copy:
 * NET_HEADER_SIZE bytes of header, and the frame. True: it is taken. On the pair's loop.
 */
struct net_taker {
	bool (*take)(void *context, const uint8_t *packet, size_t size);
	void *context;
};

struct net_pair {
	struct virtio_device *device;
	struct virtqueue *rx, *tx;
	struct event_loop *loop;
	void (*lost)(void *context); /* the back-end is gone; on the pair's loop */
	void *context;
	int fd;			     /* the back-end's; not owned */
	struct event_source *source; /* while attached and not lost */
	struct event_timer *more;    /* goes on with transmitting after a full batch */
	uint32_t events;	     /* EPOLL* that `source` waits for */
	bool running;		     /* between start and stop: the queues may be used */
	bool starved;		     /* the driver has no receive buffers: its doorbell resumes */
	bool tx_blocked;	     /* the back-end is full: EPOLLOUT resumes */
	bool mergeable, checksums;   /* MRG_RXBUF, GUEST_CSUM negotiated */
	uint64_t features;	     /* negotiated */
	size_t held;		     /* bytes of a packet in `packet` that waits for buffers */
	struct net_taker taker;	     /* .take NULL: nobody */
	struct net_counters counters;
	struct virtqueue_chain *chains; /* NET_QUEUE_SIZE: those that make up one received packet */
	uint32_t *written;		/* NET_QUEUE_SIZE: bytes in each */
	struct iovec *rx_iov;		/* NET_IOV_MAX + 1: the last for what does not fit */
	struct iovec *more_iov;		/* NET_IOV_MAX: of the second and later chains */
	struct iovec *tx_iov;		/* NET_IOV_MAX + 1: the first for the checked header */
	uint8_t *packet;		/* NET_HEADER_SIZE + NET_FRAME_MAX bytes, see net_pair.c */
};

/*
 * Allocates what the pair needs; before its loop runs. @lost is called (once an attachment) when
 * the back-end turns out to be gone: an interface that was deleted.
 */
struct error *net_pair_init(struct net_pair *pair, struct virtio_device *device,
			    struct virtqueue *rx, struct virtqueue *tx, struct event_loop *loop,
			    int fd, void (*lost)(void *context), void *context) MUST_CHECK;
/* The loop must not be running; also undoes a net_pair_init that failed. */
void net_pair_cleanup(struct net_pair *pair);

/* Receives and sends from now on, when started; the descriptor must be attached to the interface.
 * Idempotent. */
struct error *net_pair_attach(struct net_pair *pair) MUST_CHECK;
/* Receives no more; a started pair drops what it is to send. Drops a packet that waits for buffers.
 */
void net_pair_detach(struct net_pair *pair);

/* Begins to use the queues, with the @features that were negotiated. */
void net_pair_start(struct net_pair *pair, uint64_t features);
/* Leaves the queues alone; nothing is in flight afterwards. A packet that waits for buffers keeps
 * waiting. */
void net_pair_stop(struct net_pair *pair);
/* Drops a packet that waits for buffers. */
void net_pair_flush(struct net_pair *pair);

/*
 * The packet that waits for buffers (base/state.h), if any; the pair is stopped. Loading one makes
 * an attached pair hold it.
 */
void net_pair_state(struct net_pair *pair, struct state *state);

/* The doorbells. */
void net_pair_notify_rx(struct net_pair *pair);
void net_pair_notify_tx(struct net_pair *pair);

/* Adds the counters to *@sum. Any thread. */
void net_pair_add_counters(const struct net_pair *pair, struct net_counters *sum);

#endif
