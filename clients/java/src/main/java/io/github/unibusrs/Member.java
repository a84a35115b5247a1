package io.github.unibusrs;

/**
 * A member of a room.
 *
 * @param memberId the authenticated id
 * @param role what the member may do
 * @param visibleFrom the first sequence that the member may read, unsigned; 0: all messages
 */
public record Member(String memberId, Role role, long visibleFrom) {
  static Member of(io.github.unibusrs.v1.Member m) {
    return new Member(m.getMemberId(), Role.of(m.getRole()), m.getVisibleFrom());
  }
}
