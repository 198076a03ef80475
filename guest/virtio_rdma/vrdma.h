/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the files of this driver share.
 *
 * main.c	 probing, registration with the RDMA core
 * netdev.c	 the network interface that the device belongs to
 * control.c	 commands and their answers
 * event.c	 events of the device, kicks to it, and the tables of objects
 * queue.c	 the memory of rings, and its mapping into processes
 * device.c	 device, port, GIDs, contexts, protection domains, addresses
 * cq.c, srq.c, qp.c, mr.c	 the objects of these names
 * post.c	 work requests of the kernel
 *
 * Locks: control_lock is held over a command. send_lock, receive_lock (of a QP
 * or SRQ) and the lock of a CQ guard the kernel's index into a ring; kick_lock
 * the kick queue. All but the first may be taken in interrupts; kick_lock is
 * the innermost.
 */
#ifndef VRDMA_H
#define VRDMA_H

#include <linux/completion.h>
#include <linux/if_ether.h>
#include <linux/mutex.h>
#include <linux/netdevice.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <rdma/ib_umem.h>
#include <rdma/ib_verbs.h>
#include <rdma/rdma_user_rxe.h>

#include "virtio_rdma.h"

#define VRDMA_PORT	    1
#define VRDMA_EVENTS	    256
#define VRDMA_KICKS	    256
#define VRDMA_REQUEST_SMALL 96

/* Bits of netdev_flags. */
#define VRDMA_NETDEV_REGISTERED 0
#define VRDMA_NETDEV_RESCAN	1

/* The device's configuration, in numbers of this machine. */
struct vrdma_limits {
	u32 gids, max_mtu;
	u32 max_qp, max_cq, max_srq, max_pd, max_mr, max_mw;
	u32 max_queue_slots, max_cq_slots, max_sge, max_inline, max_rd_atomic;
	u32 max_fast_pages, max_command, max_message;
	u64 max_mr_size;
};

/* What the device reads and writes during a command. */
struct vrdma_control {
	u8 request[VRDMA_REQUEST_SMALL] __aligned(8);
	union {
		struct virtio_rdma_answer status;
		struct virtio_rdma_number_answer number;
		struct virtio_rdma_qp qp;
	} answer;
};

/* Something that events name by its number. */
struct vrdma_object {
	u32 number;
	refcount_t users;
	struct completion unused;
};

struct vrdma_kick {
	struct virtio_rdma_kick entry;
	struct vrdma_qp *qp; /* NULL: destroyed since */
};

struct vrdma_dev {
	struct ib_device ibdev;
	struct virtio_device *vdev;
	struct vrdma_limits limits;
	u8 mac[ETH_ALEN];
	__be64 guid;

	struct virtqueue *control_vq;
	struct mutex control_lock;
	struct vrdma_control *control;
	struct completion control_done;

	struct virtqueue *event_vq;
	struct virtio_rdma_event *events;

	struct virtqueue *kick_vq;
	spinlock_t kick_lock;
	struct vrdma_kick *kicks;
	u16 kicks_free[VRDMA_KICKS];
	u32 kicks_free_count;

	struct xarray cqs, qps, srqs;

	struct notifier_block netdev_nb;
	struct work_struct netdev_work;
	unsigned long netdev_flags;
	spinlock_t netdev_lock;
	struct net_device *netdev; /* NULL: not there */
};

struct vrdma_queue {
	struct rxe_queue_buf *buf;
	struct rdma_user_mmap_entry *entry; /* of a process's queue */
	dma_addr_t *pages;
	u32 npages;
	u32 mask;
	u32 shift;
	u32 index; /* the kernel's own, of its own queues */
};

struct vrdma_ucontext {
	struct ib_ucontext ibcontext;
};

struct vrdma_pd {
	struct ib_pd ibpd;
	u32 pdn;
};

struct vrdma_ah {
	struct ib_ah ibah;
	struct rxe_av av;
};

struct vrdma_cq {
	struct ib_cq ibcq;
	struct vrdma_object object;
	struct vrdma_queue queue;
	spinlock_t lock;
};

struct vrdma_srq {
	struct ib_srq ibsrq;
	struct vrdma_object object;
	struct vrdma_queue queue;
	spinlock_t receive_lock;
	u32 max_sge;
};

struct vrdma_qp {
	struct ib_qp ibqp;
	struct vrdma_object object;
	struct vrdma_queue send, receive;
	spinlock_t send_lock, receive_lock;
	struct ib_qp_cap cap;
	enum ib_sig_type sig_type;
	enum ib_qp_state state;
	bool user; /* a process has its rings */
	unsigned int
		kicked; /* kinds that the device has not taken yet; kick_lock */
};

struct vrdma_mr {
	struct ib_mr ibmr;
	struct ib_umem *umem;
	/* For fast registration. */
	__le64 *page_list;
	dma_addr_t page_list_dma;
	u32 max_pages, page_count;
};

struct vrdma_mw {
	struct ib_mw ibmw;
};

static inline struct vrdma_dev *to_vdev(struct ib_device *ibdev)
{
	return container_of(ibdev, struct vrdma_dev, ibdev);
}

static inline struct vrdma_pd *to_vpd(struct ib_pd *ibpd)
{
	return container_of(ibpd, struct vrdma_pd, ibpd);
}

static inline struct vrdma_ah *to_vah(struct ib_ah *ibah)
{
	return container_of(ibah, struct vrdma_ah, ibah);
}

static inline struct vrdma_cq *to_vcq(struct ib_cq *ibcq)
{
	return container_of(ibcq, struct vrdma_cq, ibcq);
}

static inline struct vrdma_srq *to_vsrq(struct ib_srq *ibsrq)
{
	return container_of(ibsrq, struct vrdma_srq, ibsrq);
}

static inline struct vrdma_qp *to_vqp(struct ib_qp *ibqp)
{
	return container_of(ibqp, struct vrdma_qp, ibqp);
}

static inline struct vrdma_mr *to_vmr(struct ib_mr *ibmr)
{
	return container_of(ibmr, struct vrdma_mr, ibmr);
}

/* The device that does the transfers: the virtio device's transport. */
static inline struct device *vrdma_dma_dev(struct vrdma_dev *dev)
{
	return dev->vdev->dev.parent;
}

/* netdev.c */
enum ib_port_state vrdma_netdev_state(struct vrdma_dev *dev, enum ib_mtu *mtu);
void vrdma_netdev_check(struct vrdma_dev *dev);
int vrdma_netdev_watch(struct vrdma_dev *dev);
void vrdma_netdev_registered(struct vrdma_dev *dev);
void vrdma_netdev_unwatch(struct vrdma_dev *dev);

/* control.c */
int vrdma_control_init(struct vrdma_dev *dev);
void vrdma_control_free(struct vrdma_dev *dev);
void vrdma_control_done(struct virtqueue *vq);
int vrdma_command(struct vrdma_dev *dev, u32 command,
		  struct virtio_rdma_request *request, size_t size,
		  void *answer, size_t answer_size);
int vrdma_create(struct vrdma_dev *dev, u32 command,
		 struct virtio_rdma_request *request, size_t size, u32 *number);
int vrdma_command_number(struct vrdma_dev *dev, u32 command, u32 number);
void *vrdma_request_alloc(struct vrdma_dev *dev, size_t size);

/* event.c */
int vrdma_events_init(struct vrdma_dev *dev);
void vrdma_events_start(struct vrdma_dev *dev);
void vrdma_events_free(struct vrdma_dev *dev);
void vrdma_event_interrupt(struct virtqueue *vq);
void vrdma_kick(struct vrdma_dev *dev, struct vrdma_qp *qp, u32 kind);
void vrdma_kick_forget(struct vrdma_dev *dev, struct vrdma_qp *qp);
int vrdma_object_add(struct xarray *table, struct vrdma_object *object,
		     u32 number);
struct vrdma_object *vrdma_object_get(struct xarray *table, u32 number);
void vrdma_object_put(struct vrdma_object *object);
void vrdma_object_remove(struct xarray *table, struct vrdma_object *object);

/* queue.c */
int vrdma_queue_create(struct vrdma_dev *dev, struct vrdma_queue *queue,
		       u32 entries, u32 size, struct ib_udata *udata,
		       struct mminfo *info);
void vrdma_queue_destroy(struct vrdma_dev *dev, struct vrdma_queue *queue);
u32 vrdma_queue_runs(const struct vrdma_queue *queue,
		     struct virtio_rdma_run *runs);
int vrdma_mmap(struct ib_ucontext *context, struct vm_area_struct *vma);
void vrdma_mmap_free(struct rdma_user_mmap_entry *entry);

static inline u32 vrdma_queue_slots(const struct vrdma_queue *queue)
{
	return queue->mask + 1;
}

static inline void *vrdma_queue_element(const struct vrdma_queue *queue)
{
	return queue->buf->data + ((size_t)queue->index << queue->shift);
}

/* The kernel adds: whether there is a place. */
static inline bool vrdma_queue_full(const struct vrdma_queue *queue)
{
	u32 consumer = smp_load_acquire(&queue->buf->consumer_index);

	return ((queue->index + 1) & queue->mask) == (consumer & queue->mask);
}

static inline void vrdma_queue_added(struct vrdma_queue *queue)
{
	queue->index = (queue->index + 1) & queue->mask;
	smp_store_release(&queue->buf->producer_index, queue->index);
}

/* The kernel takes: whether there is something. */
static inline bool vrdma_queue_empty(const struct vrdma_queue *queue)
{
	u32 producer = smp_load_acquire(&queue->buf->producer_index);

	return queue->index == (producer & queue->mask);
}

static inline void vrdma_queue_taken(struct vrdma_queue *queue)
{
	queue->index = (queue->index + 1) & queue->mask;
	smp_store_release(&queue->buf->consumer_index, queue->index);
}

/* Bytes of a receive with so many segments. */
static inline u32 vrdma_receive_size(u32 max_sge)
{
	return sizeof(struct rxe_recv_wqe) + max_sge * sizeof(struct rxe_sge);
}

/* device.c */
enum ib_port_state vrdma_port_state(struct vrdma_dev *dev);
int vrdma_query_device(struct ib_device *ibdev, struct ib_device_attr *attr,
		       struct ib_udata *udata);
int vrdma_query_port(struct ib_device *ibdev, u32 port,
		     struct ib_port_attr *attr);
int vrdma_get_port_immutable(struct ib_device *ibdev, u32 port,
			     struct ib_port_immutable *immutable);
enum rdma_link_layer vrdma_get_link_layer(struct ib_device *ibdev, u32 port);
int vrdma_query_pkey(struct ib_device *ibdev, u32 port, u16 index, u16 *pkey);
int vrdma_add_gid(const struct ib_gid_attr *attr, void **context);
int vrdma_del_gid(const struct ib_gid_attr *attr, void **context);
int vrdma_alloc_ucontext(struct ib_ucontext *context, struct ib_udata *udata);
void vrdma_dealloc_ucontext(struct ib_ucontext *context);
void vrdma_disassociate_ucontext(struct ib_ucontext *context);
int vrdma_alloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);
int vrdma_dealloc_pd(struct ib_pd *ibpd, struct ib_udata *udata);
int vrdma_create_ah(struct ib_ah *ibah, struct rdma_ah_init_attr *init,
		    struct ib_udata *udata);
int vrdma_query_ah(struct ib_ah *ibah, struct rdma_ah_attr *attr);
int vrdma_destroy_ah(struct ib_ah *ibah, u32 flags);

/* cq.c */
/* The verb's parameter for user space has changed its type. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
#define vrdma_cq_udata uverbs_attr_bundle
#else
#define vrdma_cq_udata ib_udata
#endif
int vrdma_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		    struct vrdma_cq_udata *from_user);
int vrdma_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata);
int vrdma_poll_cq(struct ib_cq *ibcq, int count, struct ib_wc *wc);
int vrdma_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags);

/* srq.c */
int vrdma_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *init,
		     struct ib_udata *udata);
int vrdma_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr,
		     enum ib_srq_attr_mask mask, struct ib_udata *udata);
int vrdma_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr);
int vrdma_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata);

/* qp.c */
int vrdma_create_qp(struct ib_qp *ibqp, struct ib_qp_init_attr *init,
		    struct ib_udata *udata);
int vrdma_modify_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		    struct ib_udata *udata);
int vrdma_query_qp(struct ib_qp *ibqp, struct ib_qp_attr *attr, int mask,
		   struct ib_qp_init_attr *init);
int vrdma_destroy_qp(struct ib_qp *ibqp, struct ib_udata *udata);

/* mr.c */
struct ib_mr *vrdma_get_dma_mr(struct ib_pd *ibpd, int access);
struct ib_mr *vrdma_reg_user_mr(struct ib_pd *ibpd, u64 start, u64 length,
				u64 iova, int access, struct ib_udata *udata);
struct ib_mr *vrdma_alloc_mr(struct ib_pd *ibpd, enum ib_mr_type type,
			     u32 max_num_sg);
int vrdma_map_mr_sg(struct ib_mr *ibmr, struct scatterlist *sg, int nents,
		    unsigned int *offset);
int vrdma_dereg_mr(struct ib_mr *ibmr, struct ib_udata *udata);
int vrdma_alloc_mw(struct ib_mw *ibmw, struct ib_udata *udata);
int vrdma_dealloc_mw(struct ib_mw *ibmw);

/* post.c */
int vrdma_post_send(struct ib_qp *ibqp, const struct ib_send_wr *wr,
		    const struct ib_send_wr **bad);
int vrdma_post_recv(struct ib_qp *ibqp, const struct ib_recv_wr *wr,
		    const struct ib_recv_wr **bad);
int vrdma_post_srq_recv(struct ib_srq *ibsrq, const struct ib_recv_wr *wr,
			const struct ib_recv_wr **bad);

#endif
