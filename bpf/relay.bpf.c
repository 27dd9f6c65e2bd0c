// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * The relay's forwarding in the kernel: docs/kernel-path.md. A short-header packet from a registered
 * source to a registered connection ID goes to where that owner is; every other frame goes up
 * untouched, counted by reason, and the relay's own loop decides.
 *
 * Compiled by bcc (bpf/build.py), which rewrites the map calls in this file. All maps are pinned: the
 * relay makes them, and they outlive it. RELAY_* are given on the command line.
 */
#define BPF_LICENSE Dual MIT/GPL

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/udp.h>

#include "layout.h"
#include "parse.h"
#include "rewrite.h"
#include "hop.h"
#include "checks.h"

#define LOOPBACK 1 /* the interface index of `lo` in every network namespace */
#define NOTE_INTERVAL_NS 1000000000ull


BPF_TABLE_PINNED("lru_hash", struct cid_key, struct cid_entry, owner_by_cid, RELAY_CIDS,
		 RELAY_PINS "/owner_by_cid");
BPF_TABLE_PINNED("hash", struct source_key, struct owner_ref, owner_by_source, RELAY_OWNERS,
		 RELAY_PINS "/owner_by_source");
BPF_TABLE_PINNED("array", __u32, struct owner, owners, RELAY_OWNERS, RELAY_PINS "/owners");
BPF_TABLE_PINNED("array", __u32, struct bucket, buckets, RELAY_BUCKETS, RELAY_PINS "/buckets");
BPF_TABLE_PINNED("array", __u32, struct config, relay_config, 1, RELAY_PINS "/relay_config");
BPF_TABLE_PINNED("percpu_array", __u32, __u64, outcomes, OUTCOMES, RELAY_PINS "/outcomes");
BPF_TABLE_PINNED("hash", __u32, struct link, links, RELAY_LINKS, RELAY_PINS "/links");
BPF_TABLE_PINNED("lru_hash", struct cid_key, __u32, missed_cids, RELAY_MISSES,
		 RELAY_PINS "/missed_cids");
/* The relay makes it a devmap_hash, keyed by interface index; bcc knows no such name. */
BPF_XDP_REDIRECT_MAP("devmap:" RELAY_PINS "/egress", int, egress, RELAY_LINKS);

/* Reading the clock costs a call; reading the tick does not. So each CPU reads once in a tick. */
struct clock {
	__u64 jiffies;
	__u64 now_ns;
};
BPF_PERCPU_ARRAY(clocks, struct clock, 1);

struct verdict {
	int action;
	int outcome;
};

static __always_inline __u64 now_ns(void)
{
	__u64 jiffies = bpf_jiffies64();
	__u32 zero = 0;
	struct clock *clock = clocks.lookup(&zero);

	if (!clock)
		return 0;
	if (clock->jiffies != jiffies) {
		clock->now_ns = bpf_ktime_get_coarse_ns();
		clock->jiffies = jiffies;
	}
	return clock->now_ns;
}

/* Remember the way back to the sender, and that it lives. Returns whether the frame is for us. */
static __always_inline int note_source(const struct ethhdr *eth, __u32 ingress, __u64 now,
				       struct hop *hop)
{
	struct link *link;

	if (hop->ifindex == ingress && now - read_once(hop->seen_ns) < NOTE_INTERVAL_NS &&
	    same_mac(hop->peer_mac, eth->h_source) && same_mac(hop->own_mac, eth->h_dest))
		return 1;
	link = links.lookup(&ingress);
	if (!link || !same_mac(link->mac, eth->h_dest))
		return 0;
	/* Readers on other CPUs take nothing while the time is zero. */
	write_once(hop->seen_ns, 0);
	barrier();
	__builtin_memcpy(hop->peer_mac, eth->h_source, 6);
	__builtin_memcpy(hop->own_mac, eth->h_dest, 6);
	hop->ifindex = ingress;
	hop->mtu = link->mtu;
	barrier();
	write_once(hop->seen_ns, now);
	return 1;
}

/* The owner of a reference, if it is still the one that was meant. */
static __always_inline struct owner *owner_of(struct owner_ref *ref)
{
	__u32 index = ref->owner;
	struct owner *owner = owners.lookup(&index);

	return owner && owner->generation == ref->generation ? owner : NULL;
}

static __always_inline struct owner *owner_at(const struct source_key *key, __u32 *index)
{
	struct owner_ref *ref = owner_by_source.lookup((struct source_key *)key);

	if (!ref)
		return NULL;
	*index = ref->owner;
	return owner_of(ref);
}

/* The owner of the datagram's source: in most cases the one that used this connection ID last. */
static __always_inline struct owner *sender(const struct source_key *key, struct cid_entry *entry)
{
	__u32 index = entry->sender;
	struct owner *owner = owners.lookup(&index);
	__u32 sequence;

	if (owner && owner->generation) {
		sequence = read_once(owner->sequence);
		barrier();
		if (!(sequence & 1) && same_path(&owner->path, key)) {
			barrier();
			if (sequence == read_once(owner->sequence))
				return owner;
		}
	}
	owner = owner_at(key, &index);
	if (owner)
		entry->sender = index;
	return owner;
}

/* Frames on `lo` never leave it, others never enter it; between NICs both ends must take part. */
static __always_inline int may_pass(__u32 ingress, __u32 egress)
{
	struct link *from, *to;

	if (ingress == egress)
		return 1;
	if (ingress == LOOPBACK || egress == LOOPBACK)
		return 0;
	from = links.lookup(&ingress);
	to = links.lookup(&egress);
	/* A native frame can only be handed to a driver that has the program too. */
	return from && to && (to->native || !from->native);
}

static __always_inline int next_hop(struct xdp_md *ctx, const struct datagram *datagram,
				    const struct config *config, struct owner *owner, __u64 now,
				    struct rewrite *to, __u32 *egress)
{
	__u32 family_bit = datagram->ipv6 ? 2 : 1;
	__u32 way = WAY_FIB;
	int outcome = -1;

	if (config->fib & family_bit && ctx->ingress_ifindex != LOOPBACK)
		outcome = fib_hop(ctx, datagram, &owner->route, now, to, egress);
	if (outcome < 0) {
		outcome = learned_hop(owner, config, now, datagram->ip_length, to, egress);
		way = ctx->ingress_ifindex == LOOPBACK ? WAY_LOOPBACK : WAY_LEARNED;
	}
	if (!outcome && !may_pass(ctx->ingress_ifindex, *egress))
		outcome = OUTCOME_NO_NEXT_HOP;
	if (outcome)
		way = WAY_NONE;
	if (owner->way != way)
		owner->way = way;
	return outcome;
}

static __always_inline struct bucket *bucket_of(const struct owner *owner, int place)
{
	__u32 number = owner->buckets[place & 1];

	return number ? buckets.lookup(&number) : NULL;
}

/* Let the sender pay; 0, or why it cannot. */
static __always_inline int charge(struct owner *owner, __u64 now, __u32 length)
{
	struct bucket *first = bucket_of(owner, 0), *second = bucket_of(owner, 1);
	int outcome;

	outcome = bucket_refuses(first, now);
	if (outcome) {
		drop_at(first, length);
		return outcome;
	}
	outcome = bucket_refuses(second, now);
	if (outcome) {
		drop_at(second, length);
		return outcome;
	}
	if (over_rate(owner, now, length))
		return OUTCOME_RATE_LIMITED;
	take_from(first, now, length);
	take_from(second, now, length);
	return 0;
}

static __always_inline struct verdict pass(int outcome)
{
	return (struct verdict){XDP_PASS, outcome};
}

static __always_inline struct verdict forward(struct xdp_md *ctx, const struct datagram *datagram,
					      const struct source_key *key,
					      const struct config *config, struct owner *from,
					      struct owner *to, __u64 now)
{
	int partial = datagram->udp->check == pseudo_header(key, datagram->udp->len);
	struct rewrite rewrite;
	__u32 egress_index = 0;
	int outcome;

	/* On `lo` nobody looks at the rest of such a checksum; elsewhere userspace completes it. */
	if (partial && ctx->ingress_ifindex != LOOPBACK)
		return pass(OUTCOME_PARTIAL_CHECKSUM);
	outcome = copy_path(to, &rewrite);
	if (outcome)
		return pass(outcome);
	outcome = next_hop(ctx, datagram, config, to, now, &rewrite, &egress_index);
	if (outcome)
		return pass(outcome);
	outcome = charge(from, now, datagram->payload_length);
	if (outcome)
		return (struct verdict){XDP_DROP, outcome};
	rewrite_frame(datagram, key, &rewrite, partial);
	__sync_fetch_and_add(&from->packets, 1);
	__sync_fetch_and_add(&from->bytes, datagram->payload_length);
	if (egress_index == ctx->ingress_ifindex)
		return (struct verdict){XDP_TX, OUTCOME_FORWARDED};
	outcome = egress.redirect_map(egress_index, 0);
	return (struct verdict){outcome,
				outcome == XDP_REDIRECT ? OUTCOME_FORWARDED : OUTCOME_ABORTED};
}

/* A datagram to one of the relay's ports. */
static __always_inline struct verdict handle_datagram(struct xdp_md *ctx, void *end,
						      const struct datagram *datagram,
						      const struct config *config)
{
	struct owner *from, *to = NULL;
	struct cid_entry *entry = NULL;
	__u64 now = now_ns();
	struct source_key key;
	struct cid_key cid;
	__u32 index = 1;
	int outcome;

	outcome = read_cid(datagram, end, config, &cid);
	if (!outcome) {
		entry = owner_by_cid.lookup(&cid);
		to = entry ? owner_of(&entry->to) : NULL;
	}
	source_of(datagram, &key);
	from = entry ? sender(&key, entry) : owner_at(&key, &index);
	/* Whatever comes from a registered source shows the way back to it, and that it lives. */
	if (from && !note_source(datagram->eth, ctx->ingress_ifindex, now, &from->hop))
		return pass(OUTCOME_OTHER_HOST);
	if (outcome)
		return pass(outcome);
	if (!to) {
		/* Perhaps evicted: the relay looks here for what it should put back. */
		if (from)
			missed_cids.update(&cid, &index);
		return pass(OUTCOME_UNKNOWN_CID);
	}
	if (!from)
		return pass(OUTCOME_UNREGISTERED_SOURCE);
	outcome = check_pair(datagram, from, to, now);
	if (outcome)
		return pass(outcome);
	return forward(ctx, datagram, &key, config, from, to, now);
}

static __always_inline struct verdict handle(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct datagram datagram;
	struct config *config;
	__u32 zero = 0;
	int outcome;

	outcome = parse_headers(data, end, &datagram);
	if (outcome)
		return pass(outcome);
	config = relay_config.lookup(&zero);
	if (!config || !is_ours(config, datagram.udp->dest))
		return pass(OUTCOME_NOT_OURS);
	outcome = parse_lengths(end, &datagram);
	if (outcome)
		return pass(outcome);
	return handle_datagram(ctx, end, &datagram, config);
}

int quicpipe_relay(struct xdp_md *ctx)
{
	struct verdict verdict = handle(ctx);
	__u32 outcome = verdict.outcome;
	__u64 *count = outcomes.lookup(&outcome);

	if (count)
		(*count)++;
	return verdict.action;
}
