// SPDX-License-Identifier: GPL-2.0
/* Shared receive queues. */
#include <rdma/uverbs_ioctl.h>

#include "vrdma.h"

static int vrdma_srq_command(struct vrdma_srq *srq, u32 limit, u32 *number)
{
	struct vrdma_dev *dev = to_vdev(srq->ibsrq.device);
	u32 count = vrdma_queue_runs(&srq->queue, NULL);
	struct virtio_rdma_create_srq *request;
	size_t size = struct_size(request, runs, count);
	int err;

	request = vrdma_request_alloc(dev, size);
	if (!request)
		return -ENOMEM;
	request->pdn = cpu_to_le32(to_vpd(srq->ibsrq.pd)->pdn);
	request->slots = cpu_to_le32(vrdma_queue_slots(&srq->queue));
	request->stride = cpu_to_le32(1 << srq->queue.shift);
	request->max_sge = cpu_to_le32(srq->max_sge);
	request->limit = cpu_to_le32(limit);
	request->run_count = cpu_to_le32(count);
	vrdma_queue_runs(&srq->queue, request->runs);
	err = vrdma_create(dev, VIRTIO_RDMA_CREATE_SRQ, &request->header, size,
			   number);
	kvfree(request);
	return err;
}

int vrdma_create_srq(struct ib_srq *ibsrq, struct ib_srq_init_attr *init,
		     struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibsrq->device);
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	struct rxe_create_srq_resp resp = {};
	u32 number;
	int err;

	if (udata && udata->outlen < sizeof(resp))
		return -EINVAL;
	if (init->srq_type != IB_SRQT_BASIC)
		return -EOPNOTSUPP;
	if (!init->attr.max_wr ||
	    init->attr.max_wr >= dev->limits.max_queue_slots ||
	    init->attr.max_sge > dev->limits.max_sge ||
	    init->attr.srq_limit > init->attr.max_wr)
		return -EINVAL;

	spin_lock_init(&srq->receive_lock);
	srq->max_sge = max(init->attr.max_sge, 1U);
	err = vrdma_queue_create(dev, &srq->queue, init->attr.max_wr,
				 vrdma_receive_size(srq->max_sge), udata,
				 &resp.mi);
	if (err)
		return err;
	err = vrdma_srq_command(srq, init->attr.srq_limit, &number);
	if (err)
		goto queue;
	err = vrdma_object_add(&dev->srqs, &srq->object, number);
	if (err)
		goto command;
	if (udata) {
		resp.srq_num = number;
		err = ib_copy_to_udata(udata, &resp, sizeof(resp));
		if (err)
			goto object;
	}
	init->attr.max_wr = srq->queue.mask;
	init->attr.max_sge = srq->max_sge;
	return 0;

object:
	vrdma_object_remove(&dev->srqs, &srq->object);
command:
	vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_SRQ, number);
queue:
	vrdma_queue_destroy(dev, &srq->queue);
	return err;
}

int vrdma_modify_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr,
		     enum ib_srq_attr_mask mask, struct ib_udata *udata)
{
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	struct virtio_rdma_modify_srq request = {
		.srqn = cpu_to_le32(srq->object.number),
		.limit = cpu_to_le32(attr->srq_limit),
	};

	if (mask & ~IB_SRQ_LIMIT)
		return -EOPNOTSUPP;
	if (!(mask & IB_SRQ_LIMIT))
		return 0;
	if (attr->srq_limit > srq->queue.mask)
		return -EINVAL;
	return vrdma_command(to_vdev(ibsrq->device), VIRTIO_RDMA_MODIFY_SRQ,
			     &request.header, sizeof(request), NULL, 0);
}

int vrdma_query_srq(struct ib_srq *ibsrq, struct ib_srq_attr *attr)
{
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	struct virtio_rdma_number_request request = {
		.number = cpu_to_le32(srq->object.number),
	};
	struct virtio_rdma_number_answer answer;
	int err;

	err = vrdma_command(to_vdev(ibsrq->device), VIRTIO_RDMA_QUERY_SRQ,
			    &request.header, sizeof(request), &answer,
			    sizeof(answer));
	if (err)
		return err;
	attr->max_wr = srq->queue.mask;
	attr->max_sge = srq->max_sge;
	attr->srq_limit = le32_to_cpu(answer.number);
	return 0;
}

int vrdma_destroy_srq(struct ib_srq *ibsrq, struct ib_udata *udata)
{
	struct vrdma_dev *dev = to_vdev(ibsrq->device);
	struct vrdma_srq *srq = to_vsrq(ibsrq);
	int err;

	err = vrdma_command_number(dev, VIRTIO_RDMA_DESTROY_SRQ,
				   srq->object.number);
	if (err && err != -ENODEV)
		return err;
	vrdma_object_remove(&dev->srqs, &srq->object);
	vrdma_queue_destroy(dev, &srq->queue);
	return 0;
}
