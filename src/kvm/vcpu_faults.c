/* SPDX-License-Identifier: BSD-2-Clause */
/* The statistics of vcpu_faults.h. Only the kernel has a say in them. */
#include "kvm/vcpu_faults.h"

#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/cleanup.h"

#define NAME_MAX_SIZE 256 /* longer ones than the kernel has: 48 */

static bool is_mended(const char *name)
{
	return !strcmp(name, "pf_fixed") || !strcmp(name, "pf_fast");
}

/* Where the counts are in the file, as its own descriptions say. */
static void find(struct vcpu_faults *faults)
{
	struct kvm_stats_header header;

	if (pread(faults->fd, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
	    header.name_size > NAME_MAX_SIZE)
		return;
	for (uint32_t i = 0; i < header.num_desc && faults->count < VCPU_FAULTS_COUNTS; i++) {
		size_t size = sizeof(struct kvm_stats_desc) + header.name_size;
		struct kvm_stats_desc description;
		char name[NAME_MAX_SIZE + 1] = "";
		off_t at = (off_t)(header.desc_offset + i * size);

		if (pread(faults->fd, &description, sizeof(description), at) !=
			(ssize_t)sizeof(description) ||
		    pread(faults->fd, name, header.name_size, at + (off_t)sizeof(description)) !=
			(ssize_t)header.name_size)
			return;
		if (is_mended(name))
			faults->offset[faults->count++] = header.data_offset + description.offset;
	}
}

void vcpu_faults_open(struct vcpu_faults *faults, int vcpu_fd)
{
	*faults = (struct vcpu_faults){.fd = ioctl(vcpu_fd, KVM_GET_STATS_FD, NULL)};
}

void vcpu_faults_close(struct vcpu_faults *faults)
{
	close_fd(&faults->fd);
	faults->count = 0;
}

uint64_t vcpu_faults_mended(struct vcpu_faults *faults)
{
	uint64_t sum = 0, value;

	if (!faults->looked && faults->fd >= 0)
		find(faults);
	faults->looked = true;
	for (uint32_t i = 0; i < faults->count; i++)
		if (pread(faults->fd, &value, sizeof(value), (off_t)faults->offset[i]) ==
		    (ssize_t)sizeof(value))
			sum += value;
	return sum;
}
