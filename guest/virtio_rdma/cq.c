// SPDX-License-Identifier: GPL-2.0
/*
 * Completion queues. A process takes completions from its own by itself; the
 * kernel takes them here, and arms both by a word in the ring.
 */
#include <rdma/uverbs_ioctl.h>

#include "vrdma.h"

static u32 *vrdma_cq_armed(struct vrdma_cq *cq)
{
	return (void *)cq->queue.buf + VIRTIO_RDMA_QUEUE_ARMED;
}

static int vrdma_cq_command(struct vrdma_dev *dev, struct vrdma_cq *cq,
			    u32 *number)
{
	u32 count = vrdma_queue_runs(&cq->queue, NULL);
	struct virtio_rdma_create_cq *request;
	size_t size = struct_size(request, runs, count);
	int err;

	request = vrdma_request_alloc(dev, size);
	if (!request)
		return -ENOMEM;
	request->slots = cpu_to_le32(vrdma_queue_slots(&cq->queue));
	request->run_count = cpu_to_le32(count);
	vrdma_queue_runs(&cq->queue, request->runs);
	err = vrdma_create(dev, VIRTIO_RDMA_CREATE_CQ, &request->header, size,
			   number);
	kvfree(request);
	return err;
}

int vrdma_create_cq(struct ib_cq *ibcq, const struct ib_cq_init_attr *attr,
		    struct vrdma_cq_udata *from_user)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct ib_udata *udata = from_user ? &from_user->driver_udata : NULL;
#else
	struct ib_udata *udata = from_user;
#endif
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct vrdma_cq *cq = to_vcq(ibcq);
	struct rxe_create_cq_resp resp = {};
	u32 number;
	int err;

	if (udata && udata->outlen < sizeof(resp))
		return -EINVAL;
	if (attr->flags)
		return -EOPNOTSUPP;
	if (!attr->cqe || attr->cqe >= dev->limits.max_cq_slots)
		return -EINVAL;

	spin_lock_init(&cq->lock);
	err = vrdma_queue_create(dev, &cq->queue, attr->cqe,
				 VIRTIO_RDMA_CQ_STRIDE, udata, &resp.mi);
	if (err)
		return err;
	err = vrdma_cq_command(dev, cq, &number);
	if (err)
		goto queue;
	err = vrdma_object_add(&dev->cqs, &cq->object, number);
	if (err)
		goto command;
	if (udata) {
		err = ib_copy_to_udata(udata, &resp, sizeof(resp));
		if (err)
			goto object;
	}
	ibcq->cqe = cq->queue.mask;
	return 0;

object:
	vrdma_object_remove(&dev->cqs, &cq->object);
command:
	vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_CQ, number);
queue:
	vrdma_queue_destroy(dev, &cq->queue);
	return err;
}

int vrdma_destroy_cq(struct ib_cq *ibcq, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct vrdma_cq *cq = to_vcq(ibcq);
	int err;

	err = vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_CQ,
				   cq->object.number);
	if (err && err != -ENODEV)
		return err;
	vrdma_object_remove(&dev->cqs, &cq->object);
	vrdma_queue_destroy(dev, &cq->queue);
	return 0;
}

static enum ib_wc_opcode vrdma_wc_opcode(u32 opcode)
{
	/* This number is not the same in all kernels. */
	return opcode == VIRTIO_RDMA_WC_REG_MR ? IB_WC_REG_MR : opcode;
}

static void vrdma_wc(struct ib_wc *wc, const struct ib_uverbs_wc *from,
		     struct ib_qp *ibqp)
{
	memset(wc, 0, sizeof(*wc));
	wc->wr_id = from->wr_id;
	wc->status = from->status;
	wc->opcode = vrdma_wc_opcode(from->opcode);
	wc->vendor_err = from->vendor_err;
	wc->byte_len = from->byte_len;
	wc->qp = ibqp;
	wc->src_qp = from->src_qp;
	if (from->wc_flags & VIRTIO_RDMA_WC_GRH)
		wc->wc_flags |= IB_WC_GRH;
	if (from->wc_flags & VIRTIO_RDMA_WC_WITH_IMMEDIATE) {
		wc->wc_flags |= IB_WC_WITH_IMM;
		wc->ex.imm_data = from->ex.imm_data;
	}
	if (from->wc_flags & VIRTIO_RDMA_WC_WITH_INVALIDATE) {
		wc->wc_flags |= IB_WC_WITH_INVALIDATE;
		wc->ex.invalidate_rkey = from->ex.invalidate_rkey;
	}
	wc->pkey_index = from->pkey_index;
	wc->port_num = from->port_num;
}

/* Of the kernel's own only. */
int vrdma_poll_cq(struct ib_cq *ibcq, int count, struct ib_wc *wc)
{
	struct vrdma_dev *dev = to_vdev(ibcq->device);
	struct vrdma_cq *cq = to_vcq(ibcq);
	struct vrdma_object *object;
	unsigned long flags;
	int done = 0;

	spin_lock_irqsave(&cq->lock, flags);
	while (done < count && !vrdma_queue_empty(&cq->queue)) {
		struct ib_uverbs_wc from;

		memcpy(&from, vrdma_queue_element(&cq->queue), sizeof(from));
		vrdma_queue_taken(&cq->queue);
		/* One whose QP is gone is nobody's. */
		object = vrdma_object_get(&dev->qps, from.qp_num);
		if (!object)
			continue;
		vrdma_wc(&wc[done++], &from,
			 &container_of(object, struct vrdma_qp, object)->ibqp);
		vrdma_object_put(object);
	}
	spin_unlock_irqrestore(&cq->lock, flags);
	return done;
}

/*
 * The device looks at the word after each completion, and this at the ring
 * after the word is written, so that one of them sees the other.
 */
int vrdma_req_notify_cq(struct ib_cq *ibcq, enum ib_cq_notify_flags flags)
{
	u32 want = (flags & IB_CQ_SOLICITED_MASK) == IB_CQ_SOLICITED ?
			   VIRTIO_RDMA_ARMED_SOLICITED :
			   VIRTIO_RDMA_ARMED_ANY;
	struct vrdma_cq *cq = to_vcq(ibcq);
	unsigned long irq_flags;
	int missed = 0;

	spin_lock_irqsave(&cq->lock, irq_flags);
	if (READ_ONCE(*vrdma_cq_armed(cq)) < want)
		WRITE_ONCE(*vrdma_cq_armed(cq), want);
	smp_mb();
	if (flags & IB_CQ_REPORT_MISSED_EVENTS)
		missed = !vrdma_queue_empty(&cq->queue);
	spin_unlock_irqrestore(&cq->lock, irq_flags);
	return missed;
}
