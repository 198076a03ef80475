/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which processor a guest sees: the host's, or a level that several hosts have, so that the guest can
 * move between them.
 *
 *   host		 all that KVM supports here
 *   x86-64-v1 … v4	 the levels of the psABI, and what every KVM gives beside them
 *
 * and behind it, each after a comma, features (cpu_features.h) that are added (+aes) or taken away
 * (-avx512f, and with it what needs it). A level has no more than it says: nothing of the host's is
 * shown that is not in it, but for its make, model and caches.
 *
 * Pure: text and tables.
 */
#ifndef GODWIT_KVM_CPU_MODEL_H
#define GODWIT_KVM_CPU_MODEL_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "kvm/cpu_features.h"

struct cpu_feature_set {
	uint64_t words[CPU_FEATURES_MAX / 64];
};

struct cpu_model {
	uint32_t level; /* 0: the host's */
	struct cpu_feature_set added, removed;
};

/* @text: as above; NULL: "host". A usage error names what is wrong in it. */
struct error *cpu_model_parse(const char *text, struct cpu_model *model) MUST_CHECK;
/* Whether it is just what the host has. */
bool cpu_model_is_host(const struct cpu_model *model);
/*
 * Takes from @cpuid, which is all that this host has, what is not @model's. An error names all
 * features of the model that the host lacks; @text is the model's, for that.
 */
struct error *cpu_model_apply(const struct cpu_model *model, const char *text,
			      struct kvm_cpuid2 *cpuid) MUST_CHECK;
/*
 * The width of guest physical addresses: of @host_bits that the host has, those that any host of a
 * level has, unless @memory bytes need more.
 */
uint32_t cpu_model_physical_bits(const struct cpu_model *model, uint32_t host_bits,
				 uint64_t memory);

#endif
