// SPDX-License-Identifier: GPL-2.0
/*
 * What the device and the driver tell each other without commands: the event
 * queue, on which the device says what has happened to an object, and the kick
 * queue, on which the driver says where it has posted work.
 *
 * An object is found by its number for as long as it is in its table, and waits
 * with its end for those who have found it.
 */
#include <linux/scatterlist.h>

#include "vrdma.h"

int vrdma_object_add(struct xarray *table, struct vrdma_object *object,
		     u32 number)
{
	object->number = number;
	refcount_set(&object->users, 1);
	init_completion(&object->unused);
	return xa_insert_irq(table, number, object, GFP_KERNEL);
}

struct vrdma_object *vrdma_object_get(struct xarray *table, u32 number)
{
	struct vrdma_object *object;
	unsigned long flags;

	xa_lock_irqsave(table, flags);
	object = xa_load(table, number);
	if (object)
		refcount_inc(&object->users);
	xa_unlock_irqrestore(table, flags);
	return object;
}

void vrdma_object_put(struct vrdma_object *object)
{
	if (refcount_dec_and_test(&object->users))
		complete(&object->unused);
}

/* From now on nobody finds it, and nobody is using it. */
void vrdma_object_remove(struct xarray *table, struct vrdma_object *object)
{
	xa_erase_irq(table, object->number);
	vrdma_object_put(object);
	wait_for_completion(&object->unused);
}

static void vrdma_cq_event(struct vrdma_dev *dev, u32 number, bool error)
{
	struct vrdma_object *object = vrdma_object_get(&dev->cqs, number);
	struct ib_event event = {
		.device = &dev->ibdev,
		.event = IB_EVENT_CQ_ERR,
	};
	struct ib_cq *ibcq;

	if (!object)
		return;
	ibcq = &container_of(object, struct vrdma_cq, object)->ibcq;
	if (!error) {
		if (ibcq->comp_handler)
			ibcq->comp_handler(ibcq, ibcq->cq_context);
	} else if (ibcq->event_handler) {
		event.element.cq = ibcq;
		ibcq->event_handler(&event, ibcq->cq_context);
	}
	vrdma_object_put(object);
}

static void vrdma_srq_event(struct vrdma_dev *dev, u32 number)
{
	struct vrdma_object *object = vrdma_object_get(&dev->srqs, number);
	struct ib_event event = {
		.device = &dev->ibdev,
		.event = IB_EVENT_SRQ_LIMIT_REACHED,
	};
	struct ib_srq *ibsrq;

	if (!object)
		return;
	ibsrq = &container_of(object, struct vrdma_srq, object)->ibsrq;
	if (ibsrq->event_handler) {
		event.element.srq = ibsrq;
		ibsrq->event_handler(&event, ibsrq->srq_context);
	}
	vrdma_object_put(object);
}

static void vrdma_qp_event(struct vrdma_dev *dev, u32 number,
			   enum ib_event_type type)
{
	struct vrdma_object *object = vrdma_object_get(&dev->qps, number);
	struct ib_event event = {
		.device = &dev->ibdev,
		.event = type,
	};
	struct ib_qp *ibqp;

	if (!object)
		return;
	ibqp = &container_of(object, struct vrdma_qp, object)->ibqp;
	if (ibqp->event_handler) {
		event.element.qp = ibqp;
		ibqp->event_handler(&event, ibqp->qp_context);
	}
	vrdma_object_put(object);
}

static void vrdma_event_handle(struct vrdma_dev *dev,
			       const struct virtio_rdma_event *event)
{
	u32 number = le32_to_cpu(event->number);

	switch (le32_to_cpu(event->type)) {
	case VIRTIO_RDMA_EVENT_COMPLETION:
		vrdma_cq_event(dev, number, false);
		break;
	case VIRTIO_RDMA_EVENT_CQ_ERR:
		vrdma_cq_event(dev, number, true);
		break;
	case VIRTIO_RDMA_EVENT_SRQ_LIMIT_REACHED:
		vrdma_srq_event(dev, number);
		break;
	case VIRTIO_RDMA_EVENT_QP_FATAL:
		vrdma_qp_event(dev, number, IB_EVENT_QP_FATAL);
		break;
	case VIRTIO_RDMA_EVENT_QP_REQ_ERR:
		vrdma_qp_event(dev, number, IB_EVENT_QP_REQ_ERR);
		break;
	case VIRTIO_RDMA_EVENT_QP_ACCESS_ERR:
		vrdma_qp_event(dev, number, IB_EVENT_QP_ACCESS_ERR);
		break;
	case VIRTIO_RDMA_EVENT_COMM_EST:
		vrdma_qp_event(dev, number, IB_EVENT_COMM_EST);
		break;
	case VIRTIO_RDMA_EVENT_SQ_DRAINED:
		vrdma_qp_event(dev, number, IB_EVENT_SQ_DRAINED);
		break;
	case VIRTIO_RDMA_EVENT_QP_LAST_WQE_REACHED:
		vrdma_qp_event(dev, number, IB_EVENT_QP_LAST_WQE_REACHED);
		break;
	default:
		break; /* of a later version */
	}
}

static int vrdma_event_offer(struct vrdma_dev *dev,
			     struct virtio_rdma_event *event)
{
	struct scatterlist sg;

	sg_init_one(&sg, event, sizeof(*event));
	return virtqueue_add_inbuf(dev->event_vq, &sg, 1, event, GFP_ATOMIC);
}

void vrdma_event_interrupt(struct virtqueue *vq)
{
	struct vrdma_dev *dev = vq->vdev->priv;
	struct virtio_rdma_event *event, copy;
	unsigned int size;

	do {
		virtqueue_disable_cb(vq);
		while ((event = virtqueue_get_buf(vq, &size))) {
			copy = *event;
			/* Its place is free: it has just been given back. */
			vrdma_event_offer(dev, event);
			if (size >=
			    offsetof(struct virtio_rdma_event, reserved))
				vrdma_event_handle(dev, &copy);
		}
	} while (!virtqueue_enable_cb(vq));
	virtqueue_kick(vq);
}

int vrdma_events_init(struct vrdma_dev *dev)
{
	u32 i;

	dev->events = kcalloc(VRDMA_EVENTS, sizeof(*dev->events), GFP_KERNEL);
	dev->kicks = kcalloc(VRDMA_KICKS, sizeof(*dev->kicks), GFP_KERNEL);
	if (!dev->events || !dev->kicks) {
		vrdma_events_free(dev);
		return -ENOMEM;
	}
	for (i = 0; i < VRDMA_KICKS; i++)
		dev->kicks_free[i] = i;
	dev->kicks_free_count = VRDMA_KICKS;
	return 0;
}

/* The device may use its queues. */
void vrdma_events_start(struct vrdma_dev *dev)
{
	u32 i;

	for (i = 0; i < VRDMA_EVENTS; i++)
		if (vrdma_event_offer(dev, &dev->events[i]))
			break; /* the queue is shorter */
	virtqueue_kick(dev->event_vq);
	/* Kicks that were taken are looked for when the next is given. */
	virtqueue_disable_cb(dev->kick_vq);
}

/* The device has been reset. */
void vrdma_events_free(struct vrdma_dev *dev)
{
	kfree(dev->events);
	kfree(dev->kicks);
}

static void vrdma_kicks_reclaim(struct vrdma_dev *dev)
{
	struct vrdma_kick *kick;
	unsigned int size;

	while ((kick = virtqueue_get_buf(dev->kick_vq, &size))) {
		if (kick->qp)
			kick->qp->kicked &= ~le32_to_cpu(kick->entry.kind);
		dev->kicks_free[dev->kicks_free_count++] = kick - dev->kicks;
	}
}

static int vrdma_kick_add(struct vrdma_dev *dev, struct vrdma_qp *qp, u32 kind)
{
	struct vrdma_kick *kick;
	struct scatterlist sg;
	int err;

	if (!dev->kicks_free_count)
		return -ENOSPC;
	kick = &dev->kicks[dev->kicks_free[dev->kicks_free_count - 1]];
	kick->entry.kind = cpu_to_le32(kind);
	kick->entry.number = cpu_to_le32(qp->ibqp.qp_num);
	kick->qp = qp;
	sg_init_one(&sg, &kick->entry, sizeof(kick->entry));
	err = virtqueue_add_outbuf(dev->kick_vq, &sg, 1, kick, GFP_ATOMIC);
	if (!err)
		dev->kicks_free_count--;
	return err;
}

/*
 * Tells the device that work was posted: the producer index is stored. The
 * device gives a kick back before it looks at the queue, so one that it still
 * has says enough.
 */
void vrdma_kick(struct vrdma_dev *dev, struct vrdma_qp *qp, u32 kind)
{
	bool notify = false;
	unsigned long flags;

	spin_lock_irqsave(&dev->kick_lock, flags);
	/* The producer index, before whether the last kick was taken. */
	smp_mb();
	vrdma_kicks_reclaim(dev);
	if (!(qp->kicked & kind)) {
		/* A full queue is emptied by the host, whatever this does. */
		while (vrdma_kick_add(dev, qp, kind)) {
			if (virtqueue_is_broken(dev->kick_vq))
				goto unlock;
			virtqueue_kick(dev->kick_vq);
			cpu_relax();
			vrdma_kicks_reclaim(dev);
		}
		qp->kicked |= kind;
		notify = virtqueue_kick_prepare(dev->kick_vq);
	}
unlock:
	spin_unlock_irqrestore(&dev->kick_lock, flags);
	if (notify)
		virtqueue_notify(dev->kick_vq);
}

/* The QP goes: kicks for it that the device has not taken must not name it. */
void vrdma_kick_forget(struct vrdma_dev *dev, struct vrdma_qp *qp)
{
	unsigned long flags;
	u32 i;

	spin_lock_irqsave(&dev->kick_lock, flags);
	for (i = 0; i < VRDMA_KICKS; i++)
		if (dev->kicks[i].qp == qp)
			dev->kicks[i].qp = NULL;
	spin_unlock_irqrestore(&dev->kick_lock, flags);
}
