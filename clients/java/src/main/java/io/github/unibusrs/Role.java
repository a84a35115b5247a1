package io.github.unibusrs;

/** What a member may do. Each role may also do what the roles before it may do. */
public enum Role {
  /** Sees the room, its messages and its members. */
  READER,
  /** Publishes. */
  WRITER,
  /** Changes the room, its members and the stored messages. */
  OWNER;

  static Role of(io.github.unibusrs.v1.Role role) {
    return switch (role) {
      case ROLE_OWNER -> OWNER;
      case ROLE_WRITER -> WRITER;
      default -> READER;
    };
  }

  io.github.unibusrs.v1.Role toWire() {
    return switch (this) {
      case READER -> io.github.unibusrs.v1.Role.ROLE_READER;
      case WRITER -> io.github.unibusrs.v1.Role.ROLE_WRITER;
      case OWNER -> io.github.unibusrs.v1.Role.ROLE_OWNER;
    };
  }
}
