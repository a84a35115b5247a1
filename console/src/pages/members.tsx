import { useState } from 'preact/hooks';
import type { Failure } from '../errors';
import { count } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import { type Member, Role } from '../gen/unibus/v1/room_service_pb';
import { readPages, useLoaded } from '../load';
import { call, type Rooms } from '../service';
import { identity } from '../session';
import { Confirm, Dialog } from '../ui/dialog';
import { Empty, Loading, Problem, toast } from '../ui/parts';

const ROLES: Record<Role, string> = {
  [Role.UNSPECIFIED]: 'Reader',
  [Role.READER]: 'Reader',
  [Role.WRITER]: 'Writer',
  [Role.OWNER]: 'Owner',
};

async function list(
  rooms: Rooms,
  roomId: string,
  options: { timeoutMs: number; signal?: AbortSignal },
): Promise<Member[]> {
  const { entries } = await readPages(async (page) => {
    const { members, nextPageToken } = await rooms.listMembers({ roomId, ...page }, options);
    return { entries: members, nextPageToken };
  });
  return entries;
}

export function MembersTab({ room }: { room: Room }) {
  const { value, failure, reload } = useLoaded(
    (rooms, options) => list(rooms, room.roomId, options),
    room.roomId,
    5000,
  );
  const [changing, setChanging] = useState<Member | 'new' | undefined>(undefined);
  const [removing, setRemoving] = useState<Member | undefined>(undefined);
  const [search, setSearch] = useState('');
  const shown = value
    ?.filter((member) => member.memberId.toLowerCase().includes(search.toLowerCase()))
    .slice(0, 500);
  return (
    <div class="members">
      <div class="toolbar">
        <span class="muted count">
          {value && `${count(value.length)} ${value.length === 1 ? 'member' : 'members'}`}
        </span>
        <span class="search">
          <input
            type="search"
            data-search
            aria-label="Search members"
            placeholder="Search"
            value={search}
            onInput={(event) => setSearch(event.currentTarget.value)}
          />
        </span>
        <button type="button" class="primary" data-new onClick={() => setChanging('new')}>
          Add member
        </button>
      </div>
      {failure && <Problem failure={failure} retry={reload} />}
      {!value && !failure && <Loading lines={4} />}
      {value?.length === 0 && (
        <Empty title="The room has no members">
          <p>
            It was created while authorisation was off. With authorisation only administrators can use it
            until it has an owner.
          </p>
        </Empty>
      )}
      {shown && shown.length > 0 && (
        <table class="list cards">
          <thead>
            <tr>
              <th>Member</th>
              <th>Role</th>
              <th>Reads from</th>
              <th aria-label="Actions" />
            </tr>
          </thead>
          <tbody>
            {shown.map((member) => (
              <tr key={member.memberId}>
                <td class="name">
                  {member.memberId}
                  {member.memberId === identity.value?.subject && <span class="label">you</span>}
                </td>
                <td>
                  <span class={`pill role-${member.role}`}>{ROLES[member.role]}</span>
                </td>
                <td class="from">
                  {member.visibleFrom > 0n ? count(member.visibleFrom) : 'the first message'}
                </td>
                <td class="actions">
                  <button type="button" data-row onClick={() => setChanging(member)}>
                    Change
                  </button>
                  <button type="button" class="danger quiet" onClick={() => setRemoving(member)}>
                    Remove
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {changing && (
        <MemberDialog
          room={room}
          member={changing === 'new' ? undefined : changing}
          onClose={() => setChanging(undefined)}
          onChanged={reload}
        />
      )}
      {removing && (
        <Confirm
          title={`Remove ${removing.memberId}?`}
          action="Remove member"
          onClose={() => setRemoving(undefined)}
          onConfirm={async () => {
            const request = { roomId: room.roomId, memberId: removing.memberId };
            const outcome = await call((rooms, options) => rooms.removeMember(request, options));
            toast(
              outcome.ok ? `Removed ${removing.memberId}` : outcome.failure.message,
              outcome.ok ? 'good' : 'danger',
            );
            if (outcome.ok) reload();
            return outcome.ok;
          }}
        >
          <p>
            The open subscriptions of <b>{removing.memberId}</b> end within a second, and no later message
            that it publishes is stored. Its durable subscribers stay until they are deleted.
          </p>
        </Confirm>
      )}
    </div>
  );
}

interface MemberDialogProps {
  room: Room;
  member: Member | undefined;
  onClose: () => void;
  onChanged: () => void;
}

function MemberDialog({ room, member, onClose, onChanged }: MemberDialogProps) {
  const [id, setId] = useState(member?.memberId ?? '');
  const [role, setRole] = useState(member?.role || Role.READER);
  const [from, setFrom] = useState(member?.visibleFrom ? `${member.visibleFrom}` : '');
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const canLimit = room.persist && role !== Role.OWNER;
  const submit = async (event: Event) => {
    event.preventDefault();
    const visibleFrom = canLimit && /^\d+$/.test(from) ? BigInt(from) : 0n;
    const request = { roomId: room.roomId, memberId: id.trim(), role, visibleFrom };
    const outcome = await call((rooms, options) => rooms.addMember(request, options));
    if (!outcome.ok) return setFailure(outcome.failure);
    toast(`${id.trim()} is ${ROLES[role].toLowerCase()}`);
    onChanged();
    onClose();
  };
  return (
    <Dialog title={member ? `Change ${member.memberId}` : 'Add member'} onClose={onClose}>
      <form onSubmit={submit}>
        <label class="field">
          <span>Authenticated id</span>
          <input
            data-first={member === undefined ? true : undefined}
            name="member"
            required
            readOnly={member !== undefined}
            autocomplete="off"
            spellcheck={false}
            value={id}
            onInput={(event) => setId(event.currentTarget.value)}
          />
        </label>
        <label class="field">
          <span>Role</span>
          <select name="role" value={role} onChange={(event) => setRole(Number(event.currentTarget.value))}>
            <option value={Role.READER}>Reader: sees the room and its messages</option>
            <option value={Role.WRITER}>Writer: also publishes</option>
            <option value={Role.OWNER}>Owner: also changes the room and its members</option>
          </select>
        </label>
        {canLimit && (
          <label class="field">
            <span>Reads from sequence (empty: the first message)</span>
            <input
              inputMode="numeric"
              pattern="\d*"
              value={from}
              onInput={(event) => setFrom(event.currentTarget.value)}
            />
          </label>
        )}
        {failure && <Problem failure={failure} />}
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary">
            {member ? 'Change member' : 'Add member'}
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
