/* SPDX-License-Identifier: BSD-2-Clause */
/* Between crc.c and crc_vector.c. */
#ifndef GODWIT_RDMA_CRC_PRIVATE_H
#define GODWIT_RDMA_CRC_PRIVATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The shortest input that rdma_crc_fold takes. */
#define RDMA_CRC_FOLD_MIN 64U

/* True if this processor can run rdma_crc_fold. */
bool rdma_crc_can_fold(void);
/*
 * Folds @size bytes, at least RDMA_CRC_FOLD_MIN and a multiple of 16, after the register @state into
 * 16 bytes that have, after the register 0, the same CRC.
 */
void rdma_crc_fold(uint32_t state, const uint8_t *bytes, size_t size, uint8_t folded[16]);

#endif
