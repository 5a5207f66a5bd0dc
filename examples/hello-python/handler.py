def handler(event, context):
    name = (event.get("queryStringParameters") or event).get("name", "world")
    print("greeting", name)
    return {"message": f"Hello, {name}!"}
