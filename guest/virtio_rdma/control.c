// SPDX-License-Identifier: GPL-2.0
/*
 * Commands: the control queue, one at a time. The caller sleeps until the
 * answer is there, however long it takes; only a device that is gone ends the
 * wait otherwise.
 */
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/vmalloc.h>

#include "vrdma.h"

void vrdma_control_done(struct virtqueue *vq)
{
	struct vrdma_dev *dev = vq->vdev->priv;

	complete(&dev->control_done);
}

static int vrdma_status_to_errno(u32 status)
{
	switch (status) {
	case 0:
		return 0;
	case 2:
		return -ENOENT;
	case 12:
		return -ENOMEM;
	case 14:
		return -EFAULT;
	case 16:
		return -EBUSY;
	case 17:
		return -EEXIST;
	case 22:
		return -EINVAL;
	case 95:
		return -EOPNOTSUPP;
	case 99:
		return -EADDRNOTAVAIL;
	default:
		return -EIO;
	}
}

/* Memory of any length from vrdma_request_alloc, as a list of its pieces. */
static int vrdma_request_sg(void *request, size_t size, struct sg_table *table)
{
	size_t offset = offset_in_page(request);
	struct scatterlist *sg;
	unsigned int i, count;
	int err;

	count = is_vmalloc_addr(request) ? PFN_UP(offset + size) : 1;
	err = sg_alloc_table(table, count, GFP_KERNEL);
	if (err)
		return err;
	if (count == 1) {
		sg_set_buf(table->sgl, request, size);
		return 0;
	}
	for_each_sgtable_sg(table, sg, i) {
		size_t here = min_t(size_t, size, PAGE_SIZE - offset);

		sg_set_page(sg, vmalloc_to_page(request), here, offset);
		request += here;
		size -= here;
		offset = 0;
	}
	return 0;
}

static int vrdma_control_wait(struct vrdma_dev *dev)
{
	unsigned int used;

	while (!virtqueue_get_buf(dev->control_vq, &used)) {
		if (virtqueue_is_broken(dev->control_vq))
			return -ENODEV;
		wait_for_completion_timeout(&dev->control_done, HZ);
	}
	return 0;
}

static int vrdma_control_execute(struct vrdma_dev *dev, void *request,
				 size_t size)
{
	struct vrdma_control *control = dev->control;
	struct scatterlist in, *sgs[2];
	struct sg_table out;
	int err;

	err = vrdma_request_sg(request, size, &out);
	if (err)
		return err;
	/* For a device that says that it is done and writes nothing. */
	memset(&control->answer, 0xff, sizeof(control->answer));
	sg_init_one(&in, &control->answer, sizeof(control->answer));
	sgs[0] = out.sgl;
	sgs[1] = &in;
	reinit_completion(&dev->control_done);
	err = virtqueue_add_sgs(dev->control_vq, sgs, 1, 1, control,
				GFP_KERNEL);
	if (!err) {
		virtqueue_kick(dev->control_vq);
		err = vrdma_control_wait(dev);
	}
	sg_free_table(&out);
	if (err)
		return err;
	return vrdma_status_to_errno(
		le32_to_cpu(control->answer.status.status));
}

/*
 * Executes a command: 0, or what the device's status says. A request of up to
 * VRDMA_REQUEST_SMALL bytes may be anywhere, a longer one comes from
 * vrdma_request_alloc. @answer may be NULL, and is written on success only.
 */
int vrdma_command(struct vrdma_dev *dev, u32 command,
		  struct virtio_rdma_request *request, size_t size,
		  void *answer, size_t answer_size)
{
	struct vrdma_control *control = dev->control;
	void *from = request;
	int err;

	request->command = cpu_to_le32(command);
	mutex_lock(&dev->control_lock);
	if (size <= sizeof(control->request))
		from = memcpy(control->request, request, size);
	err = vrdma_control_execute(dev, from, size);
	if (!err && answer)
		memcpy(answer, &control->answer, answer_size);
	mutex_unlock(&dev->control_lock);
	return err;
}

/* Room for a request, zeroed; NULL also when the device takes none so long. */
void *vrdma_request_alloc(struct vrdma_dev *dev, size_t size)
{
	if (size > dev->limits.max_command)
		return NULL;
	return kvzalloc(size, GFP_KERNEL);
}

/* Executes a command that makes an object, whose number is the answer. */
int vrdma_create(struct vrdma_dev *dev, u32 command,
		 struct virtio_rdma_request *request, size_t size, u32 *number)
{
	struct virtio_rdma_number_answer answer = {};
	int err;

	err = vrdma_command(dev, command, request, size, &answer,
			    sizeof(answer));
	*number = le32_to_cpu(answer.number);
	return err;
}

/* Executes a command that is said all with the number of an object. */
int vrdma_command_number(struct vrdma_dev *dev, u32 command, u32 number)
{
	struct virtio_rdma_number_request request = {
		.number = cpu_to_le32(number),
	};

	return vrdma_command(dev, command, &request.header, sizeof(request),
			     NULL, 0);
}

int vrdma_control_init(struct vrdma_dev *dev)
{
	mutex_init(&dev->control_lock);
	init_completion(&dev->control_done);
	dev->control = kzalloc(sizeof(*dev->control), GFP_KERNEL);
	return dev->control ? 0 : -ENOMEM;
}

/* The device has been reset. */
void vrdma_control_free(struct vrdma_dev *dev)
{
	kfree(dev->control);
}
