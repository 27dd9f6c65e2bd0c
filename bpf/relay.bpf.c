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

#define LOOPBACK 1 /* the interface index of `lo` in every network namespace */
#define NOTE_INTERVAL_NS 1000000000ull
#define LONG_HEADER_BIT 0x80 /* RFC 8999 §5 */
#define HTTP3_BIT 0x80	     /* docs/protocol.md §2, in a connection ID's first byte */
#define BYTE_COST_SHIFT 10
#define FAMILY_INET 2
#define FAMILY_INET6 10

/* The kernel headers' own READ_ONCE calls a function that bcc does not allow. */
#define read_once(place) (*(volatile typeof(place) *)&(place))
#define write_once(place, value) (*(volatile typeof(place) *)&(place) = (value))


BPF_TABLE_PINNED("lru_hash", struct cid_key, struct cid_entry, owner_by_cid, RELAY_CIDS,
		 RELAY_PINS "/owner_by_cid");
BPF_TABLE_PINNED("hash", struct source_key, struct owner_ref, owner_by_source, RELAY_OWNERS,
		 RELAY_PINS "/owner_by_source");
BPF_TABLE_PINNED("array", __u32, struct owner, owners, RELAY_OWNERS, RELAY_PINS "/owners");
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

/* A call of memcmp would not be resolved. */
static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
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

static __always_inline int same_path(const struct source_key *a, const struct source_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return *(__u32 *)&a->remote_port == *(__u32 *)&b->remote_port && x[1] == y[1] &&
	       x[3] == y[3] && x[0] == y[0] && x[2] == y[2];
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

/* The address part of a rewrite: 0, or the outcome if the relay is writing just now. */
static __always_inline int copy_path(struct owner *owner, struct rewrite *to)
{
	__u32 sequence = read_once(owner->sequence);

	barrier();
	to->path = owner->path;
	barrier();
	return sequence & 1 || sequence != read_once(owner->sequence) ? OUTCOME_BUSY : 0;
}

/* The interface to leave by, in `egress`, and the MAC addresses: 0, or the outcome. */
static __always_inline int learned_hop(struct owner *owner, const struct config *config, __u64 now,
				       __u32 ip_length, struct rewrite *to, __u32 *egress)
{
	struct hop *hop = &owner->hop;
	__u64 seen = read_once(hop->seen_ns);
	__u32 mtu = hop->mtu;

	barrier();
	/* Signed: another CPU may have noted a later time than our `now`. */
	if (!seen || (__s64)(now - seen) > (__s64)config->hop_max_age_ns)
		return OUTCOME_NO_NEXT_HOP;
	__builtin_memcpy(to->peer_mac, hop->peer_mac, 6);
	__builtin_memcpy(to->own_mac, hop->own_mac, 6);
	*egress = hop->ifindex;
	barrier();
	if (seen != read_once(hop->seen_ns))
		return OUTCOME_BUSY;
	return ip_length > mtu ? OUTCOME_TOO_BIG : 0;
}

/* The same by the kernel's routes and neighbours; -1 if it does not forward here. */
static __always_inline int fib_hop(struct xdp_md *ctx, const struct datagram *datagram,
				   struct rewrite *to, __u32 *egress)
{
	struct bpf_fib_lookup fib = {};
	int result;

	fib.ifindex = ctx->ingress_ifindex;
	fib.l4_protocol = IPPROTO_UDP;
	fib.tot_len = datagram->ip_length;
	fib.sport = to->path.local_port;
	fib.dport = to->path.remote_port;
	if (!datagram->ipv6) {
		fib.family = FAMILY_INET;
		fib.tos = datagram->ip4->tos;
		fib.ipv4_src = to->path.local[3];
		fib.ipv4_dst = to->path.remote[3];
	} else {
		fib.family = FAMILY_INET6;
		__builtin_memcpy(fib.ipv6_src, to->path.local, sizeof(to->path.local));
		__builtin_memcpy(fib.ipv6_dst, to->path.remote, sizeof(to->path.remote));
	}
	result = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	switch (result) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		__builtin_memcpy(to->peer_mac, fib.dmac, 6);
		__builtin_memcpy(to->own_mac, fib.smac, 6);
		*egress = fib.ifindex;
		return 0;
	case BPF_FIB_LKUP_RET_FRAG_NEEDED:
		return OUTCOME_TOO_BIG;
	case BPF_FIB_LKUP_RET_FWD_DISABLED:
	case BPF_FIB_LKUP_RET_NOT_FWDED:
		return -1;
	default:
		/* Above all "no neighbour": what userspace sends resolves it. */
		return OUTCOME_NO_NEXT_HOP;
	}
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
		outcome = fib_hop(ctx, datagram, to, egress);
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

/*
 * Token buckets as two times: when each would be full again (the generic cell rate algorithm). Two
 * CPUs may both take the last token; that is one packet too many, and costs no lock.
 */
static __always_inline int over_rate(struct owner *owner, __u64 now, __u32 length)
{
	__u64 packets_until, bytes_until;

	if (!owner->packet_cost_ns && !owner->byte_cost)
		return 0;
	packets_until = owner->packets_until_ns > now ? owner->packets_until_ns : now;
	bytes_until = owner->bytes_until_ns > now ? owner->bytes_until_ns : now;
	if (packets_until - now > owner->burst_ns || bytes_until - now > owner->burst_ns)
		return 1;
	owner->packets_until_ns = packets_until + owner->packet_cost_ns;
	owner->bytes_until_ns =
		bytes_until + (((__u64)length * owner->byte_cost) >> BYTE_COST_SHIFT);
	return 0;
}

/* The connection ID of a packet that may be for a peer: 0, or the outcome. RFC 8999 §5.2. */
static __always_inline int read_cid(const struct datagram *datagram, void *end,
				    const struct config *config, struct cid_key *cid)
{
	__u8 *payload = datagram->payload;

	if (datagram->payload_length < 1 || (void *)(payload + 1) > end)
		return OUTCOME_MALFORMED;
	if (payload[0] & LONG_HEADER_BIT)
		return OUTCOME_LONG_HEADER;
	if (datagram->payload_length < 1 + CID_LENGTH || (void *)(payload + 1 + CID_LENGTH) > end)
		return OUTCOME_MALFORMED;
	if (payload[1] & HTTP3_BIT)
		return OUTCOME_HTTP3;
	if (datagram->payload_length > config->max_payload)
		return OUTCOME_OVERSIZED;
	cid->words[0] = *(__u32 *)(payload + 1);
	cid->words[1] = *(__u32 *)(payload + 5);
	cid->words[2] = *(__u32 *)(payload + 9);
	return 0;
}

static __always_inline int check_pair(const struct datagram *datagram, const struct owner *from,
				      const struct owner *to, __u64 now)
{
	if (from->lease_end_ns <= now || to->lease_end_ns <= now)
		return OUTCOME_EXPIRED;
	if (to->ipv6 != datagram->ipv6)
		return OUTCOME_FAMILY_MISMATCH;
	if ((datagram->ipv6 ? datagram->ip6->hop_limit : datagram->ip4->ttl) <= 1)
		return OUTCOME_HOP_LIMIT;
	return 0;
}

static __always_inline int is_ours(const struct config *config, __be16 port)
{
	return port == config->ports[0] || port == config->ports[1] || port == config->ports[2] ||
	       port == config->ports[3];
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
	if (over_rate(from, now, datagram->payload_length))
		return (struct verdict){XDP_DROP, OUTCOME_RATE_LIMITED};
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
