/* SPDX-License-Identifier: BSD-2-Clause */
/* Between crc.c and crc_vector.c. */
#ifndef GODWIT_RDMA_CRC_PRIVATE_H
#define GODWIT_RDMA_CRC_PRIVATE_H

#include "rdma/crc.h"

/* The shortest input that rdma_crc_fold takes. */
#define RDMA_CRC_FOLD_MIN 64U

/* The best that this processor can do. */
enum rdma_crc_vector rdma_crc_vector(void);
/*
 * The register after @size more bytes, at least RDMA_CRC_FOLD_MIN and a multiple of 16. @vector is one that
 * this processor can do, and not RDMA_CRC_TABLES.
 */
uint32_t rdma_crc_fold(enum rdma_crc_vector vector, uint32_t state, const uint8_t *bytes,
		       size_t size);

#endif
