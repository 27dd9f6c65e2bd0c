// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * Where a packet leaves to: the copy of an owner's path, and the two ways to a next hop. No maps.
 */
#pragma once

#define FAMILY_INET 2
#define FAMILY_INET6 10
#define DSCP_MASK 0xfc /* RFC 3168: the rest is ECN, by which nobody routes */
#define ROUTE_LIFE_NS 100000000ull /* a lookup costs more than all the rest of a packet */

/* The kernel headers' own READ_ONCE calls a function that bcc does not allow. */
#define read_once(place) (*(volatile typeof(place) *)&(place))
#define write_once(place, value) (*(volatile typeof(place) *)&(place) = (value))


static __always_inline __u8 tos_of(const struct datagram *datagram)
{
	return datagram->ipv6 ? 0 : datagram->ip4->tos & DSCP_MASK;
}

/* A call of memcmp would not be resolved. */
static __always_inline int same_mac(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
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

/* The same by what the kernel's routes said a moment ago; -1 if they have to be asked again. */
static __always_inline int recent_route(const struct route *route, __u64 now, __u32 ingress,
					const struct datagram *datagram, struct rewrite *to,
					__u32 *egress)
{
	__u64 until = read_once(route->until_ns);
	__u32 mtu = route->mtu;

	barrier();
	if (until <= now || route->ingress != ingress || route->tos != tos_of(datagram))
		return -1;
	__builtin_memcpy(to->peer_mac, route->peer_mac, 6);
	__builtin_memcpy(to->own_mac, route->own_mac, 6);
	*egress = route->egress;
	barrier();
	if (until != read_once(route->until_ns))
		return -1;
	return datagram->ip_length > mtu ? OUTCOME_TOO_BIG : 0;
}

/* Two CPUs may write at once; then they write the same, unless the routes change just now. */
static __always_inline void note_route(struct route *route, __u64 now, __u32 ingress, __u16 mtu,
				       const struct datagram *datagram, const struct rewrite *to,
				       __u32 egress)
{
	write_once(route->until_ns, 0);
	barrier();
	__builtin_memcpy(route->peer_mac, to->peer_mac, 6);
	__builtin_memcpy(route->own_mac, to->own_mac, 6);
	route->egress = egress;
	route->ingress = ingress;
	route->mtu = mtu;
	route->tos = tos_of(datagram);
	barrier();
	write_once(route->until_ns, now + ROUTE_LIFE_NS);
}

static __always_inline int ask_fib(struct xdp_md *ctx, const struct datagram *datagram,
				   const struct rewrite *to, struct bpf_fib_lookup *fib)
{
	fib->ifindex = ctx->ingress_ifindex;
	fib->l4_protocol = IPPROTO_UDP;
	fib->tot_len = datagram->ip_length;
	fib->sport = to->path.local_port;
	fib->dport = to->path.remote_port;
	if (!datagram->ipv6) {
		fib->family = FAMILY_INET;
		fib->tos = tos_of(datagram);
		fib->ipv4_src = to->path.local[3];
		fib->ipv4_dst = to->path.remote[3];
	} else {
		fib->family = FAMILY_INET6;
		__builtin_memcpy(fib->ipv6_src, to->path.local, sizeof(to->path.local));
		__builtin_memcpy(fib->ipv6_dst, to->path.remote, sizeof(to->path.remote));
	}
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

/* The same by the kernel's routes and neighbours; -1 if it does not forward here. */
static __always_inline int fib_hop(struct xdp_md *ctx, const struct datagram *datagram,
				   struct route *route, __u64 now, struct rewrite *to,
				   __u32 *egress)
{
	struct bpf_fib_lookup fib = {};
	int result;

	result = recent_route(route, now, ctx->ingress_ifindex, datagram, to, egress);
	if (result >= 0)
		return result;
	switch (ask_fib(ctx, datagram, to, &fib)) {
	case BPF_FIB_LKUP_RET_SUCCESS:
		__builtin_memcpy(to->peer_mac, fib.dmac, 6);
		__builtin_memcpy(to->own_mac, fib.smac, 6);
		*egress = fib.ifindex;
		note_route(route, now, ctx->ingress_ifindex, fib.mtu_result, datagram, to,
			   *egress);
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
